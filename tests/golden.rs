//! Models against golden logits that other implementations computed (HALOGEN_GOLDEN names the folder).

use halogen::formats::Format;
use halogen::gguf::Gguf;
use halogen::gpu::{Dispatch, Gpu, Selector, Tier, View};
use halogen::memory::{Backing, ExpertMemory, KvFormat, Placement, PlacementOptions, Span, expert_bytes};
use halogen::models::{self, Keys};
use halogen::ops::Arithmetic;
use halogen::presets::{self, Kind, Untold};
use halogen::session::{LoadOptions, Model, Session, SessionOptions, Share};
use libtest_mimic::{Arguments, Failed, Trial};
use safetensors::SafeTensors;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// NMSE of f32 paths, per position, the worst position counting; and of narrower arithmetic that is held to the experts
/// which the f32 run chose.
const BOUND: f64 = 1e-6;
const NARROW_BOUND: f64 = 2e-3;
const MODELS: &[&str] = &[
    "deepseek3",
    "deepseek4",
    "deepseek4-long",
    "gemma3",
    "gemma4",
    "gemma4-e",
    "gemma4-moe",
    "glm4moe",
    "glm5",
    "glm4moe-mtp",
    "gpt-oss",
    "llama",
    "llama3-rope-scaled",
    "llama4",
    "mistral3",
    "qwen2",
    "qwen3",
    "qwen35",
    "qwen35moe",
    "qwen35moe-mtp",
    "qwen3moe",
    "qwen3next",
    "step35",
];

/// Models whose tensors are made from their hyperparameters; the others have parts that no preset has.
const HEADERS: &[&str] = &[
    "deepseek3",
    "deepseek4",
    "gemma3",
    "gemma4",
    "gemma4-moe",
    "glm4moe",
    "glm5",
    "glm4moe-mtp",
    "glm5",
    "gpt-oss",
    "llama",
    "llama3-rope-scaled",
    "llama4",
    "mistral3",
    "qwen2",
    "qwen3",
    "qwen35moe",
    "qwen3moe",
    "qwen3next",
    "step35",
];

/// Models with experts, whose logits do not depend on how many of them fit.
const MIXTURES: &[&str] = &[
    "deepseek3",
    "deepseek4",
    "gemma4-moe",
    "glm4moe",
    "glm5",
    "gpt-oss",
    "llama4",
    "qwen35moe",
    "qwen3moe",
    "qwen3next",
    "step35",
];

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let golden = std::env::var_os("HALOGEN_GOLDEN").map(PathBuf::from);
    let gpu = pollster::block_on(Gpu::new(Selector::Best)).expect("an adapter");
    let mut trials = Vec::new();
    let formats: Vec<&str> = Format::ALL.iter().map(|f| f.name()).collect();
    for (folder, names) in [("models", MODELS), ("formats", &formats)] {
        for name in names {
            for (tier, chunks) in [
                (Tier::Core, &[512, 7, 1][..]),
                (Tier::Subgroup, &[512, 7, 1]),
                (Tier::F16, &[512]),
                (Tier::Dot, &[512, 1]),
                (Tier::Matrix, &[512]),
            ] {
                for &chunk in chunks {
                    let gpu = gpu.clone();
                    let file = golden.as_ref().map(|g| g.join(folder).join(name));
                    let title = format!("{folder}/{name}/{tier}/chunk={chunk}");
                    let ignored = if golden.is_none() {
                        Some("HALOGEN_GOLDEN is not set")
                    } else if gpu.require(tier).is_err() {
                        Some("the adapter lacks the tier")
                    } else {
                        None
                    };
                    let trial = Trial::test(title, move || {
                        let file = file.as_deref().ok_or("no golden folder")?;
                        if tier.is_f32() {
                            check(&gpu, file, tier, chunk)
                        } else {
                            check_narrow(&gpu, file, tier, chunk)
                        }
                    });
                    trials.push(match ignored {
                        Some(reason) => trial.with_kind(reason).with_ignored_flag(true),
                        None => trial,
                    });
                }
            }
        }
    }
    for name in HEADERS {
        let file = golden.as_ref().map(|g| g.join("models").join(name));
        let trial = Trial::test(format!("tensors/{name}"), move || check_tensors(file.as_deref().ok_or("no folder")?));
        trials.push(match golden {
            Some(_) => trial,
            None => trial.with_kind("HALOGEN_GOLDEN is not set").with_ignored_flag(true),
        });
    }
    for name in MIXTURES {
        let (gpu, file) = (gpu.clone(), golden.as_ref().map(|g| g.join("models").join(name)));
        let trial =
            Trial::test(format!("budgets/{name}"), move || check_budgets(&gpu, file.as_deref().ok_or("no folder")?));
        trials.push(match golden {
            Some(_) => trial,
            None => trial.with_kind("HALOGEN_GOLDEN is not set").with_ignored_flag(true),
        });
    }
    for name in MODELS {
        let (gpu, file) = (gpu.clone(), golden.as_ref().map(|g| g.join("models").join(name)));
        let trial = Trial::test(format!("cuts/{name}"), move || check_cuts(&gpu, file.as_deref().ok_or("no folder")?));
        trials.push(match golden {
            Some(_) => trial,
            None => trial.with_kind("HALOGEN_GOLDEN is not set").with_ignored_flag(true),
        });
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// Names and shapes of tensors, made from the hyperparameters, are those of the file; so is what a session keeps.
fn check_tensors(file: &Path) -> Result<(), Failed> {
    let gguf = Gguf::open(&file.with_extension("gguf"))?;
    let keys = Keys::new(&gguf, gguf.architecture()?);
    let has = |name: &str| gguf.tensor(name).is_some();
    let untold = Untold {
        vocabulary: gguf.tensor("token_embd.weight").ok_or("no embedding")?.dims[1] as usize,
        tied: !has("output.weight"),
        qkv_bias: has("blk.0.attn_q.bias"),
        qk_norm: has("blk.0.attn_q_norm.weight"),
        rope_freqs: has("rope_freqs.weight"),
    };
    let further =
        gguf.tensors().iter().filter_map(|t| t.name.split_once(".nextn.").map(|(block, _)| format!("{block}.")));
    let further: Vec<String> = further.collect();
    let mut expected: Vec<(&str, &[u64], Kind)> = Vec::new();
    for t in gguf.tensors().iter().filter(|t| !further.iter().any(|block| t.name.starts_with(block))) {
        let kind = match t.type_name() {
            "f32" => Kind::F32,
            "i32" => Kind::I32,
            _ => Kind::Matrix,
        };
        expected.push((&t.name, &t.dims, kind));
    }
    let made = presets::tensors(&keys, &untold)?;
    let mut made: Vec<(&str, &[u64], Kind)> = made.iter().map(|t| (t.name.as_str(), &t.dims[..], t.kind)).collect();
    expected.sort_by_key(|t| t.0);
    made.sort_by_key(|t| t.0);
    let lists = made.iter().zip(&expected).find(|(made, expected)| made != expected);
    if made.len() != expected.len() || lists.is_some() {
        return Err(format!("{} tensors for {}, first difference {lists:?}", made.len(), expected.len()).into());
    }
    let Ok(shape) = models::shape(&gguf) else { return Ok(()) };
    let options = SessionOptions { context: Some(256), kv: KvFormat::F16, ..SessionOptions::default() };
    let (kept, needed) = (presets::cache(&keys)?.bytes(256, 2), Session::needs(&shape, &options).kv);
    if kept == needed { Ok(()) } else { Err(format!("a session keeps {needed} bytes, not {kept}").into()) }
}

/// A golden model: its tokens, and the logits of another implementation.
struct Golden {
    model: Arc<Model>,
    tokens: Vec<u32>,
    expected: Vec<f32>,
    /// Experts of a layer; 0 of a dense model.
    experts: usize,
    /// Positions of a key of an indexer.
    ratio: usize,
}

impl Golden {
    fn load(gpu: &Gpu, file: &Path) -> Result<Golden, Failed> {
        let bytes = std::fs::read(file.with_extension("safetensors"))?;
        let golden = SafeTensors::deserialize(&bytes)?;
        let tokens: Vec<i32> = bytemuck::pod_collect_to_vec(golden.tensor("tokens")?.data());
        let expected: Vec<f32> = bytemuck::pod_collect_to_vec(golden.tensor("logits")?.data());
        let gguf = Gguf::open(&file.with_extension("gguf"))?;
        let model = pollster::block_on(Model::load(gpu, &gguf, |_| true))?;
        let architecture = gguf.architecture()?;
        let experts = Keys::new(&gguf, architecture).count_or("expert_count", 0)?;
        let ratio = if architecture == "deepseek4" { 4 } else { 1 };
        Ok(Golden { model, tokens: tokens.iter().map(|t| *t as u32).collect(), expected, experts, ratio })
    }

    /// What a kernel has chosen for each token from `position` on: experts, or keys of an indexer. Sorted.
    fn chosen(
        &self,
        gpu: &Gpu,
        choice: &Dispatch,
        rows: usize,
        position: usize,
    ) -> halogen::gpu::Result<Vec<Vec<u32>>> {
        let keys = choice.kernel.spec.shader == "index_select";
        let chosen: Vec<u32> = gpu.blocking_read(buffer(choice, if keys { "selected" } else { "routed" }))?;
        let of_token = |(i, row): (usize, &[u32])| {
            let seen = if keys { (position + i + 1) / self.ratio } else { row.len() };
            let mut row = row[..seen.min(row.len())].to_vec();
            row.sort();
            row
        };
        Ok(chosen.chunks_exact(chosen.len() / rows).enumerate().map(of_token).collect())
    }

    fn session(&self, tier: Tier, force: Option<Arithmetic>) -> Result<Session, Failed> {
        let options = SessionOptions { tier: Some(tier), kv: KvFormat::F32, force, ..SessionOptions::default() };
        Ok(Session::new(&self.model, &options)?)
    }

    /// Layers with a window keep no more than it and the step, so that their rings come round.
    fn tight_session(&self, tier: Tier, chunk: usize) -> Result<Session, Failed> {
        let kv = KvFormat::F32;
        let options = SessionOptions { tier: Some(tier), kv, chunk, run_ahead: Some(0), ..SessionOptions::default() };
        Ok(Session::new(&self.model, &options)?)
    }

    /// Holds logits against the expected ones.
    fn compare(&self, logits: &[f32], bound: f64) -> Result<(), Failed> {
        let worst = self
            .expected
            .chunks_exact(self.expected.len() / self.tokens.len())
            .zip(logits.chunks_exact(logits.len() / self.tokens.len()))
            .map(|(x, y)| nmse(x, y))
            .fold(0.0, f64::max);
        // Not `worst > bound`: a NaN must fail too.
        if worst <= bound {
            Ok(())
        } else {
            Err(format!("NMSE {worst:.3e} at the worst position, {bound:e} allowed").into())
        }
    }
}

fn check(gpu: &Gpu, file: &Path, tier: Tier, chunk: usize) -> Result<(), Failed> {
    let golden = Golden::load(gpu, file)?;
    golden.compare(&golden.tight_session(tier, chunk)?.blocking_logits(&golden.tokens, chunk)?, BOUND)
}

/// The tier's arithmetic in every product that has it. A near tie of two experts, or of two keys of an indexer, would compare
/// two other functions: where the choice is another than in f32, the choice of f32 is taken instead.
fn check_narrow(gpu: &Gpu, file: &Path, tier: Tier, chunk: usize) -> Result<(), Failed> {
    let golden = Golden::load(gpu, file)?;
    let count = |position: usize| chunk.min(golden.tokens.len() - position);
    let mut choices: HashMap<(&str, u32, usize), Vec<u32>> = HashMap::new();
    let mut plain = golden.session(Tier::Subgroup, None)?;
    // Scratch buffers have a row for each token of the largest step.
    let rows = plain.chunk();
    plain.blocking_logits_watched(&golden.tokens, chunk, |position, choice| {
        let chosen = golden.chosen(gpu, choice, rows, position)?.into_iter().take(count(position)).enumerate();
        choices.extend(chosen.map(|(i, chosen)| ((choice.kernel.spec.shader, choice.layer, position + i), chosen)));
        Ok(false)
    })?;

    let force = Arithmetic::ALL.into_iter().find(|a| a.tier() == tier);
    let (mut differ, mut tried, mut unmoved) =
        (HashMap::from(CHOICES.map(|(shader, _)| (shader, 0))), HashSet::new(), None);
    let mut narrow = golden.session(tier, force)?;
    let logits = narrow.blocking_logits_watched(&golden.tokens, chunk, |position, choice| {
        let found = golden.chosen(gpu, choice, rows, position)?;
        let shader = choice.kernel.spec.shader;
        let wanted = |i: usize| &choices[&(shader, choice.layer, position + i)];
        let other: Vec<usize> = (0..count(position)).filter(|i| found[*i] != *wanted(*i)).collect();
        if other.is_empty() {
            return Ok(false);
        }
        if !tried.insert((shader, choice.layer, position)) {
            unmoved = Some((shader, choice.layer, position + other[0]));
            return Ok(false);
        }
        *differ.get_mut(shader).expect("one that is watched") += other.len();
        if shader == "index_select" {
            let view = buffer(choice, "selected");
            let mut lists: Vec<u32> = gpu.blocking_read(view)?;
            let columns = lists.len() / rows;
            other.into_iter().for_each(|i| lists[i * columns..][..wanted(i).len()].copy_from_slice(wanted(i)));
            gpu.write(view, 0, bytemuck::cast_slice(&lists))?;
            return Ok(false);
        }
        // The router chooses again among logits of which only those of the wanted experts are left.
        let view = buffer(choice, "logits");
        let mut values: Vec<f32> = gpu.blocking_read(view)?;
        let columns = values.len() / rows;
        for i in other {
            let others = (0..golden.experts).filter(|e| !wanted(i).contains(&(*e as u32)));
            others.for_each(|e| values[i * columns + e] = -3.0e38);
        }
        gpu.write(view, 0, bytemuck::cast_slice(&values))?;
        Ok(true)
    })?;
    for (shader, what) in CHOICES {
        let all = choices.keys().filter(|key| key.0 == shader).count();
        if all > 0 {
            let share = 100.0 * differ[shader] as f64 / all as f64;
            println!("{}, {tier}: {share:.2} % of {all} choices of {what} differ from f32's", file.display());
        }
    }
    match unmoved {
        Some(at) => Err(format!("the {at:?} (kernel, layer, position) could not be held to f32's choice").into()),
        None => golden.compare(&logits, NARROW_BOUND),
    }
}

/// Kernels that choose.
const CHOICES: [(&str, &str); 2] = [("router", "experts"), ("index_select", "keys")];

fn buffer<'d>(dispatch: &'d Dispatch, name: &str) -> &'d View {
    &dispatch.bindings.iter().find(|(n, _)| n == name).expect("a binding of the router").1
}

/// Sum of (x - y)^2 over the sum of (x - mean x)^2.
fn nmse(x: &[f32], y: &[f32]) -> f64 {
    let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / x.len() as f64;
    let error: f64 = x.iter().zip(y).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    error / x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>()
}

/// With layers on two devices of one kind, wherever they can be cut, the logits have the bits that they have on one.
fn check_cuts(gpu: &Gpu, file: &Path) -> Result<(), Failed> {
    static OTHER: OnceLock<Gpu> = OnceLock::new();
    let other = OTHER.get_or_init(|| pollster::block_on(Gpu::new(Selector::Best)).expect("it was opened before"));
    let (gguf, tokens) = (Gguf::open(&file.with_extension("gguf"))?, tokens(file)?);
    let shape = models::shape(&gguf)?;
    let (layers, together) = (shape.keeps.len(), shape.together);
    let logits = |cuts: &[usize]| -> Result<Vec<f32>, Failed> {
        let share =
            |(span, gpu): (Span, &Gpu)| Share { gpu: gpu.clone(), span, placement: Placement::default(), upload: None };
        let shares: Vec<Share> = Span::between(cuts).into_iter().zip([gpu, other]).map(share).collect();
        let model = pollster::block_on(Model::load_shares(&shares, &gguf, Backing::Disk, |_| true))?;
        let mut session = Session::new(&model, &SessionOptions { kv: KvFormat::F32, ..SessionOptions::default() })?;
        Ok([session.blocking_logits(&tokens, 7)?, session.blocking_logits(&tokens, 1)?].concat())
    };
    let whole = logits(&[])?;
    for cut in (1..layers).filter(|cut| *cut <= together.start || *cut >= together.end) {
        if !logits(&[cut])?.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits()) {
            return Err(format!("cut before layer {cut}: other bits").into());
        }
    }
    // One device more than there are parts.
    let parts = (0..layers).filter(|layer| *layer <= together.start || *layer >= together.end).count();
    let gpus = vec![gpu.clone(); parts + 1];
    let wishes = PlacementOptions { budget: Some(1 << 30), ..PlacementOptions::default() };
    let refused = Share::among(&gpus, &gguf, &SessionOptions::default(), &wishes).err().ok_or("too many devices")?;
    let why = if together.is_empty() { "cannot lie on" } else { "stay together" };
    if refused.to_string().contains(why) { Ok(()) } else { Err(refused.to_string().into()) }
}

/// The tokens of which a file holds the logits.
fn tokens(file: &Path) -> Result<Vec<u32>, Failed> {
    let bytes = std::fs::read(file.with_extension("safetensors"))?;
    let tokens: Vec<i32> = bytemuck::pod_collect_to_vec(SafeTensors::deserialize(&bytes)?.tensor("tokens")?.data());
    Ok(tokens.iter().map(|t| *t as u32).collect())
}

/// With a part of the experts on the device, down to those of one token, the logits have the bits that they have with all.
fn check_budgets(gpu: &Gpu, file: &Path) -> Result<(), Failed> {
    let (tokens, gguf) = (tokens(file)?, Gguf::open(&file.with_extension("gguf"))?);
    let all = expert_bytes(&gguf);
    let least =
        (1..=100).find(|share| ExpertMemory::within(&gguf, all * share / 100).is_ok()).ok_or("no share is enough")?;
    let mut resident: Vec<Vec<f32>> = Vec::new();
    let mut budgets = Vec::new();
    for share in [100, 50.max(least), least] {
        let placement = Placement { experts: ExpertMemory::within(&gguf, all * share / 100)?, dense: None };
        budgets.push((share, placement));
    }
    // And with layers that pass through, slots of experts that all layers share.
    let smallest = (1..=100).find_map(|share| Placement::within(&gguf, gguf.data_bytes() * share / 100).ok());
    budgets.push((0, smallest.ok_or("no budget is enough")?));
    for (share, placement) in budgets {
        let model = pollster::block_on(Model::load_with(
            gpu,
            &gguf,
            &LoadOptions { placement, ..LoadOptions::default() },
            |_| true,
        ))?;
        let mut session = Session::new(&model, &SessionOptions { kv: KvFormat::F32, ..SessionOptions::default() })?;
        for (i, chunk) in [512, 7, 1].into_iter().enumerate() {
            let logits = session.blocking_logits(&tokens, chunk)?;
            if share == 100 {
                resident.push(logits);
            } else if !logits.iter().zip(&resident[i]).all(|(a, b)| a.to_bits() == b.to_bits()) {
                return Err(format!("{share} % of the experts, chunks of {chunk}: other bits").into());
            }
        }
        if share < 100 && model.store_stats().is_none_or(|stats| stats.misses == 0) {
            return Err(format!("{share} % of the experts, and none was missed").into());
        }
    }
    Ok(())
}
