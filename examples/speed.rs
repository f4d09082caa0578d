use halogen::gguf::Gguf;
use halogen::gpu::{Gpu, Selector};
use halogen::session::*;
static MODEL: &[u8] = include_bytes!("../assets/rust-docs-moe-q4_k_m.gguf");
fn main() {
    let gpu = pollster::block_on(Gpu::new(Selector::Best)).unwrap();
    let gguf = Gguf::from_static("demo", MODEL).unwrap();
    let model = pollster::block_on(Model::load(&gpu, &gguf, |_| true)).unwrap();
    println!("load {:?}", model.load_stats());
    let mut s = Session::new(&model, &SessionOptions::default()).unwrap();
    let prompt: Vec<u32> = (0..256).map(|i| 3 + i * 7 % 4000).collect();
    for _ in 0..3 {
        s.clear();
        let mut g = s.generate(&prompt, &Sampling::greedy(), &[], 64).unwrap();
        while let Some(_t) = g.blocking_next().unwrap() {}
        let st = g.stats();
        println!(
            "prefill {:.1} tok/s, decode {:.1} tok/s host {:.0} us/step",
            256.0 / st.prefill.as_secs_f64(),
            (st.generated_tokens - 1) as f64 / st.decode.as_secs_f64(),
            st.decode_host.as_secs_f64() * 1e6 / st.host_steps as f64
        );
    }
    println!("{}", s.decode_recording());
    let times = gpu.blocking_profile(s.decode_recording()).unwrap().unwrap();
    let mut m = std::collections::BTreeMap::<String, (u32, f64)>::new();
    for t in times {
        let e = m.entry(t.kernel).or_default();
        e.0 += 1;
        e.1 += t.time.as_secs_f64() * 1e6;
    }
    let mut v: Vec<_> = m.into_iter().collect();
    v.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    for (k, (n, t)) in v {
        println!("{t:8.0} us {n:3} {k}");
    }
}
