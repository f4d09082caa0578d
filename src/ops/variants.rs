//! Every kernel that the operators record, for those who look at kernels without a model: tests, `halogen shaders`.

use super::Tuning;
use super::attention::staged;
use super::index::scores_spec;
use super::shards::beside_flags;
use super::tiled::Tiled;
use super::tuning::MATVEC_WIDER;
use crate::formats::Format;
use crate::gpu::KernelSpec;
use std::collections::BTreeSet;

/// All of `specs` with and without each flag.
fn each(specs: Vec<KernelSpec>, flags: &[&'static str]) -> Vec<KernelSpec> {
    flags.iter().fold(specs, |specs, flag| specs.into_iter().flat_map(|s| [s.clone(), s.flag(flag, true)]).collect())
}

/// All of `specs` with at most one of the flags.
fn one_of(specs: Vec<KernelSpec>, flags: &[&'static str]) -> Vec<KernelSpec> {
    specs
        .into_iter()
        .flat_map(|s| std::iter::once(s.clone()).chain(flags.iter().map(move |flag| s.clone().flag(flag, true))))
        .collect()
}

fn all_of(spec: KernelSpec, flags: &[&'static str]) -> KernelSpec {
    flags.iter().fold(spec, |spec, flag| spec.flag(flag, true))
}

/// A product's variant in integer dot products, which read what a norm was applied to before, in whole blocks. Their tier
/// has subgroups, too.
fn in_dot(spec: &KernelSpec) -> Option<KernelSpec> {
    let products = ["matvec", "expert_down", "matmul"].contains(&spec.shader) && !spec.flags.contains("HEADS");
    let integers = spec.format.is_some_and(|f| f.has_integers());
    let reduced = spec.shader == "matmul" || spec.flags.contains("SUBGROUP");
    let mut dot = (products && integers && reduced && !spec.flags.contains("RAGGED")).then(|| spec.clone())?;
    dot.flags.remove("NORM");
    Some(dot.flag("DOT", true))
}

/// A matmul's variant with tiles in f16.
fn in_f16(spec: &KernelSpec) -> Option<KernelSpec> {
    (spec.shader == "matmul").then(|| spec.clone().flag("F16", true))
}

/// Sides of cooperative matrices, and the largest subgroup of those that have them: AMD's, Apple's as wgpu tells it,
/// lavapipe's.
const MATRICES: [(u32, u32); 3] = [(16, 64), (8, 64), (8, 8)];

fn matrix_products(plain: KernelSpec) -> Vec<KernelSpec> {
    let grouped = |flags: &[&'static str]| all_of(plain.clone().flag("GROUPED", true), flags);
    let mut all = vec![plain.clone(), plain.clone().flag("HEADS", true)];
    all.extend([&["GATHER"][..], &["GATHER", "SWIGLU"], &["GATHER", "SILU_MUL"], &["SCATTER"]].map(grouped));
    if [Some(Format::F16), Some(Format::Q4K)].contains(&plain.format) {
        all.extend([2, 8].map(|count| beside_flags(grouped(&["GATHER", "SWIGLU"]), count)));
        all.extend(each(one_of(vec![plain.clone()], &["RESIDUAL", "SWIGLU", "SILU_MUL"]), &["BIAS"]));
        all.extend(one_of(vec![plain.clone().flag("GELU", true)], &["SWIGLU", "SILU_MUL"]));
        all.extend(one_of(vec![grouped(&["GATHER", "WEIGHTED"])], &["SWIGLU", "SILU_MUL"]));
    }
    if plain.format == Some(Format::MXFP4) {
        all.extend(
            [
                &["GATHER", "BIAS"][..],
                &["GATHER", "BIAS", "SWIGLU", "CLAMPED"],
                &["GATHER", "BIAS", "SILU_MUL", "CLAMPED"],
                &["SCATTER", "BIAS"],
            ]
            .map(grouped),
        );
    }
    all
}

/// Kernels of experts that read several shards of a stack: of the usual formats as many as there can be, of others eight.
fn beside(expert: &KernelSpec, down: &KernelSpec, grouped: Vec<KernelSpec>, usual: bool) -> Vec<KernelSpec> {
    let reduced = |spec: KernelSpec| spec.flag("SUBGROUP", true);
    let joined = expert.clone().flag("SWIGLU", true);
    let mut one = vec![reduced(joined.clone()), reduced(down.clone())];
    if usual {
        one.extend([joined, down.clone(), reduced(expert.clone()), reduced(expert.clone().flag("SILU_MUL", true))]);
        one.extend(grouped);
    }
    let counts = [2, 4, 8].into_iter().filter(|count| usual || *count == 8);
    counts.flat_map(|count| one.iter().map(move |spec| beside_flags(spec.clone(), count))).collect()
}

/// All of `specs` for caches of each format; q8_0 where a row of `dim` values is whole blocks.
fn caches(specs: Vec<KernelSpec>, dim: u32) -> Vec<KernelSpec> {
    let formats: &[&'static str] = if dim.is_multiple_of(32) { &["KV_F16", "KV_Q8_0"] } else { &["KV_F16"] };
    one_of(specs, formats)
}

/// All of `specs` for caches in several shards.
fn in_shards(specs: Vec<KernelSpec>) -> Vec<KernelSpec> {
    specs.iter().flat_map(|spec| [2, 4].map(|count| beside_flags(spec.clone(), count))).collect()
}

/// The variants on one row of the tuning table. Formats differ in nothing but their snippet, so all but two of them meet
/// few flags; head sizes and numbers of experts, which models choose, are the usual ones and some odd ones.
pub fn variants(t: &Tuning) -> Vec<KernelSpec> {
    let mut all = Vec::new();
    let epilogues = ["RESIDUAL", "SWIGLU", "SILU_MUL"];
    let new = KernelSpec::new;
    for &format in Format::ALL {
        let usual = [Format::F16, Format::Q4K].contains(&format);
        let matvecs = |wg: u32| {
            let sized = |shader| new(shader).size("WG", wg).format(format).size("ROWS", t.matvec.1);
            (sized("matvec"), sized("expert_down").size("RANKS", 8))
        };
        let (matvec, down) = matvecs(t.matvec.0);
        let matmul = Tiled::registers(t).spec.format(format);
        let grouped = |flags: &[&'static str]| all_of(matmul.clone().flag("GROUPED", true), flags);
        if usual {
            all.extend(each(one_of(vec![matvec.clone()], &epilogues), &["NORM", "BIAS", "RAGGED", "SUBGROUP"]));
            all.extend(each(one_of(vec![matmul.clone()], &epilogues), &["BIAS"]));
            let gelu = one_of(vec![matvec.clone().flag("GELU", true)], &epilogues[1..]);
            all.extend(each(gelu, &["NORM", "SUBGROUP"]));
            all.extend(one_of(vec![matmul.clone().flag("GELU", true)], &epilogues[1..]));
        }
        let head = matvec.clone().flag("HEADS", true);
        all.extend(each(vec![head], if usual { &["RAGGED", "SUBGROUP"] } else { &["SUBGROUP"] }));
        all.push(matmul.clone().flag("HEADS", true));
        let expert = all_of(matvec.clone(), &["EXPERT", "NORM"]);
        all.extend(each(one_of(vec![expert.clone()], &epilogues[1..]), &["RAGGED", "SUBGROUP"]));
        if usual || format == Format::MXFP4 {
            let clamped = one_of(vec![expert.clone().flag("BIAS", true)], &epilogues[1..]);
            let clamped = clamped.into_iter().map(|s| {
                let gated = s.flags.contains("SWIGLU") || s.flags.contains("SILU_MUL");
                s.flag("CLAMPED", gated)
            });
            all.extend(each(clamped.collect(), &["SUBGROUP"]));
            all.extend(each(vec![down.clone().flag("BIAS", true)], &["SUBGROUP"]));
            all.extend(
                [
                    &["GATHER", "BIAS"][..],
                    &["GATHER", "BIAS", "SWIGLU", "CLAMPED"],
                    &["GATHER", "BIAS", "SILU_MUL", "CLAMPED"],
                    &["SCATTER", "BIAS"],
                ]
                .map(grouped),
            );
        }
        if format == Format::MXFP4 {
            all.extend(each(vec![all_of(expert.clone(), &["SWIGLU", "CAPPED"])], &["SUBGROUP"]));
            all.push(grouped(&["GATHER", "SWIGLU", "CAPPED"]));
        }
        if usual {
            for gated in [&epilogues[1..2], &epilogues[2..]] {
                for limit in ["LIMITED", "CAPPED"] {
                    let limited = all_of(expert.clone(), gated).flag(limit, true);
                    all.extend(each(vec![limited], &["SUBGROUP"]));
                    let limited = all_of(matvec.clone(), gated).flag(limit, true);
                    all.extend(each(vec![limited], &["NORM", "SUBGROUP"]));
                    all.push(all_of(matmul.clone(), gated).flag(limit, true));
                    all.push(all_of(grouped(&["GATHER", limit]), gated));
                }
                let gelu = all_of(expert.clone(), gated).flag("GELU", true);
                all.extend(each(vec![gelu], &["SUBGROUP"]));
                all.push(all_of(grouped(&["GATHER", "GELU"]), gated));
            }
            for times in MATVEC_WIDER {
                let (matvec, down) = matvecs(times * t.matvec.0);
                let expert = all_of(matvec.clone(), &["EXPERT", "NORM", "SWIGLU"]);
                all.extend(each(vec![matvec.clone(), matvec.flag("NORM", true), expert, down], &["SUBGROUP"]));
            }
            let weighted = expert.flag("WEIGHTED", true);
            all.extend(each(one_of(vec![weighted], &epilogues[1..]), &["SUBGROUP"]));
            all.extend(each(one_of(vec![down.clone()], &["UNWEIGHTED", "STORE"])[1..].to_vec(), &["SUBGROUP"]));
            let weighted = grouped(&["GATHER", "WEIGHTED"]);
            all.extend(one_of(vec![weighted], &epilogues[1..]));
        }
        let tiles = [&["GATHER", "SWIGLU"][..], &["SCATTER"]].map(grouped).to_vec();
        all.extend(beside(&all_of(matvec.clone(), &["EXPERT", "NORM"]), &down, tiles, usual));
        all.extend(each(vec![down], &["RAGGED", "SUBGROUP"]));
        all.extend([&["GATHER"][..], &["GATHER", "SWIGLU"], &["GATHER", "SILU_MUL"], &["SCATTER"]].map(grouped));
        all.push(matmul);
        for tokens in [2, 4, 8] {
            let batch = Tiled::batch(t, tokens).spec.format(format);
            all.extend(each(vec![batch.clone(), batch.clone().flag("HEADS", true)], &["SUBGROUP"]));
            if usual && tokens == 8 {
                all.extend(each(one_of(vec![batch.clone()], &epilogues), &["BIAS", "RAGGED", "SUBGROUP"]));
                all.extend(one_of(vec![batch.flag("GELU", true)], &epilogues[1..]));
            }
        }
        for (side, subgroup) in MATRICES {
            all.extend(matrix_products(Tiled::matrices(t, side, subgroup).spec.format(format)));
        }
        all.push(new("embed").format(format).size("WG", t.row));
    }
    // With and without a norm is the same variant here.
    let narrower: BTreeSet<KernelSpec> = all.iter().flat_map(|spec| [in_dot(spec), in_f16(spec)]).flatten().collect();
    all.extend(narrower);
    all.push(new("quantise").size("WG", t.row));
    all.extend([t.row, t.wide].map(|wg| all_of(new("rms_norm").size("WG", wg), &["QUANTISE", "SUBGROUP"])));
    for dim in [16, 20, 32, 64, 80, 96, 112, 128, 192, 256, 512] {
        let heads = new("heads").size("WG", t.row).size("HEAD_DIM", dim);
        let tempered = all_of(heads.clone(), &["ADJACENT", "TEMPERATURE"]);
        all.extend(each(caches(vec![heads], dim), &["QK_NORM", "ADJACENT", "SUBGROUP"]));
        all.extend(each(caches(vec![tempered], dim), &["SUBGROUP"]));
        if [256, 512].contains(&dim) {
            let normed = all_of(new("heads").size("WG", t.row).size("HEAD_DIM", dim), &["QK_NORM", "V_NORM"]);
            all.extend(each(caches(vec![normed], dim), &["SUBGROUP"]));
        }
        for rows in (0..).map(|i| 1 << i).take_while(|rows| *rows <= t.attention.1) {
            let attention = new("attention").size("WG", t.attention.0).size("ROWS", rows).size("HEAD_DIM", dim);
            let attention = staged(attention, rows, dim);
            if dim == 128 {
                let chunked = vec![all_of(attention.clone(), &["WINDOW", "CHUNK"])];
                all.extend(each(caches(chunked, dim), &["SPLIT"]));
            }
            if [64, 128].contains(&dim) {
                all.extend(each(in_shards(caches(vec![attention.clone()], dim)), &["WINDOW", "SPLIT"]));
            }
            all.extend(each(caches(vec![attention], dim), &["SINKS", "WINDOW", "SPLIT"]));
        }
        let combine = new("attention_combine").size("WG", t.row.min(dim / 4)).size("SPLITS", t.splits.0);
        all.push(combine.size("HEAD_DIM", dim));
    }
    for (rank, rope_dim) in [(512, 64), (32, 16)] {
        let row = rank + rope_dim;
        let latent = new("latent").size("WG", t.row).size("LATENT", rank).size("HEAD_DIM", row);
        all.extend(each(caches(vec![latent], row), &["SUBGROUP"]));
        for rows in (0..).map(|i| 1 << i).take_while(|rows| *rows <= t.latent.1) {
            let spec = new("attention").size("WG", t.latent.0).size("ROWS", rows);
            let spec = staged(spec.size("KEY_DIM", row).size("VALUE_DIM", rank).flag("LATENT", true), rows, row);
            let caches =
                [caches(vec![spec.clone()], row), caches(vec![all_of(spec, &["SELECTED", "LISTED"])], row)].concat();
            all.extend(each([in_shards(caches.clone()), caches].concat(), &["SPLIT"]));
        }
        let combine = new("attention_combine").size("WG", t.row.min(rank / 4)).size("SPLITS", t.latent_splits.0);
        all.push(combine.size("HEAD_DIM", rank));
    }
    for (dim, ratio, overlap) in [(512, 4, true), (512, 128, false), (128, 4, true), (32, 4, true), (32, 128, false)] {
        let compress = new("compress").size("WG", t.row).size("HEAD_DIM", dim).size("RATIO", ratio);
        all.extend(each(vec![compress.flag("OVERLAP", overlap)], &["KV_F16", "SUBGROUP"]));
    }
    for dim in [512, 32] {
        let rows = new("window_rows").size("WG", t.row).size("HEAD_DIM", dim);
        all.extend(each(vec![rows], &["INDEXER", "KV_F16", "SUBGROUP"]));
        for rows in (0..).map(|i| 1 << i).take_while(|rows| *rows <= t.latent.1) {
            let spec = new("attention").size("WG", t.latent.0).size("ROWS", rows);
            let spec = staged(spec.size("KEY_DIM", dim).size("VALUE_DIM", dim), rows, dim);
            let spec = all_of(spec, &["LATENT", "LISTED", "ENTRIES", "SINKS"]);
            all.extend(each([in_shards(vec![spec.clone()]), vec![spec]].concat(), &["KV_F16", "SELECTED", "SPLIT"]));
        }
    }
    for (group, dim) in [(8, 128), (4, 64), (1, 12)] {
        let rows = new("index_rows").size("WG", t.row).size("HEAD_DIM", dim);
        all.extend(each(vec![rows], &["ADJACENT", "KV_F16", "SUBGROUP"]));
        let scores = scores_spec([t.row, group, dim]);
        all.extend(each([in_shards(vec![scores.clone()]), vec![scores]].concat(), &["KV_F16"]));
    }
    all.push(new("index_select").size("WG", t.wide));
    for experts in [2, 8, 64, 128, 512, 1024] {
        let router = new("router").size("WG", t.wide.min(experts)).size("EXPERTS", experts);
        let grouped = all_of(router.clone(), &["SIGMOID", "GROUPS"]);
        all.push(all_of(router.clone(), &["RENORMALISE", "SHARED_GATE"]));
        all.push(all_of(router.clone(), &["RENORMALISE", "SCALED"]));
        all.push(all_of(router.clone(), &["SIGMOID", "UNBIASED"]));
        all.push(all_of(router.clone(), &["SIGMOID", "SOFTPLUS", "RENORMALISE"]));
        all.push(all_of(router.clone(), &["SIGMOID", "SOFTPLUS", "RENORMALISE", "HASHED", "UNBIASED"]));
        all.extend(each(vec![router], &["SIGMOID", "RENORMALISE"]));
        all.extend(each(vec![grouped], &["RENORMALISE"]));
        all.push(new("expert_group").size("WG", t.wide).size("BN", t.matmul.bn).size("EXPERTS", experts - 1));
        let lookup = new("expert_lookup").size("WG", t.wide).size("EXPERTS", experts);
        all.push(lookup.flag("STATE_WRITE", true));
    }
    for dim in [4, 16, 64, 128] {
        let dims = |spec: KernelSpec| spec.size("KEY_DIM", dim).size("VALUE_DIM", dim).size("TAPS", 4);
        all.extend(each(vec![dims(new("short_conv").size("WG", t.row))], &["SUBGROUP"]));
        all.extend(each(vec![dims(new("delta_net")).size("TILE", 8.min(dim))], &["TILED"]));
        let chunked = ["delta_chunks", "delta_states"].map(|s| new(s).size("KEY_DIM", dim).size("VALUE_DIM", dim));
        all.extend(each(chunked.to_vec(), &["TILED"]));
        let norm = new("delta_norm").size("WG", t.row).size("VALUE_DIM", dim).size("TAPS", 4);
        all.extend(each(vec![norm], &["SUBGROUP"]));
    }
    for (tokens, rows) in [(1, 24), (2, 24), (1, 4), (2, 4)] {
        let mix = new("hyper_mix").size("WG", t.row.min(32)).size("ROWS", rows).size("TOKENS", tokens);
        all.extend(each(vec![mix], if rows == 24 { &["START", "SUBGROUP"] } else { &["SUBGROUP"] }));
    }
    all.extend(each(vec![new("hyper_read").size("WG", t.row)], &["HEAD"]));
    all.push(new("gate").size("WG", t.wide));
    all.push(new("softcap").size("WG", t.wide));
    all.extend(one_of(vec![new("glu").size("WG", t.wide)], &["GELU", "CLAMPED", "LIMITED", "CAPPED"]));
    all.extend(each([t.row, t.wide].map(|wg| new("rms_norm").size("WG", wg)).to_vec(), &["RESIDUAL", "SUBGROUP"]));
    // The measurements of the device itself.
    all.extend(one_of(vec![new("stream").size("WG", t.wide)], &["FILL"]));
    all.extend(one_of(vec![new("rate").size("WG", t.wide)], &["F16", "DOT"]));
    all.extend(MATRICES.map(|(side, subgroup)| {
        new("rate_matrix").size("WG", 2 * subgroup).flag("MATRIX", true).flag("SIDE_16", side == 16)
    }));
    all.push(new("stream").flag("TICK", true));
    all.extend(one_of(vec![new("expert_combine").size("WG", t.wide)], &["UNWEIGHTED", "STORE"]));
    all.push(new("sample_slices").size("WG", t.wide));
    all.push(new("sample").size("WG", t.wide).flag("STATE_WRITE", true));
    // Lists of flags overlap.
    let mut seen = BTreeSet::new();
    all.retain(|spec| seen.insert(spec.clone()));
    all
}
