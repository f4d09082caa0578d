//! Experts that come and go: what a lookup finds, what it says of a miss, and that a halted one says nothing.

use crate::rig::*;
use halogen::formats::Format;
use halogen::gpu::View;
use halogen::ops::{NOWHERE, Record, Routing, Shard, Stack};

pub fn cases(cases: &mut Vec<Case>) {
    for (experts, ranks, tokens) in
        [(1, 1, 1), (8, 2, 1), (60, 4, 7), (128, 8, 1), (128, 8, 129), (512, 10, 33), (1024, 32, 5)]
    {
        for missing in [Missing::None, Missing::Needed, Missing::Others] {
            case(cases, experts, ranks, tokens, missing);
        }
    }
}

/// Which experts are in no slot.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Missing {
    None,
    /// One of those that are needed: the one of the highest number.
    Needed,
    /// All that are not needed.
    Others,
}

const LAYER: usize = 3;
const CLOCK: u32 = 17;
/// Where the record of an earlier miss stands.
const BEFORE: u32 = 5;

fn case(cases: &mut Vec<Case>, experts: usize, ranks: usize, tokens: usize, missing: Missing) {
    let name = format!("expert_lookup/experts={experts}/ranks={ranks}/tokens={tokens}/missing={missing:?}");
    cases.push(Case::new(name, move |setup| {
        let random = &mut Random::new((experts * ranks + tokens) as u64);
        let routed: Vec<u32> = (0..tokens * ranks).map(|_| random.below(experts) as u32).collect();
        let needed = |e: u32| routed.contains(&e);
        let last = routed.iter().copied().max().expect("a rank");
        let gone = |e: u32| match missing {
            Missing::None => false,
            Missing::Needed => e == last,
            Missing::Others => !needed(e),
        };
        let table: Vec<[u32; 2]> = (0..experts as u32).map(|e| [if gone(e) { NOWHERE } else { 0 }, e]).collect();
        let before: Vec<u32> = (0..experts).map(|_| random.below(CLOCK as usize) as u32).collect();

        for halted in [false, true] {
            let state = State { halt: u32::from(halted), clock: CLOCK, ..State::at(9) };
            let mut rig = Rig::new(setup, tokens, state, &[0; 200]);
            let gpu = rig.gpu();
            let stamps = gpu.upload("stamps", &before).unwrap();
            let record = gpu.upload("record", &vec![BEFORE; size_of::<Record>() / 4]).unwrap();
            let (stack, routing) = (stack(gpu, &table, &stamps, experts), routing(gpu, &routed, experts, ranks));
            rig.run(|step| {
                step.enter_layer(LAYER);
                step.set_record(record.clone());
                step.lookup(&routing, &stack)
            })?;

            let after = rig.read_state();
            let words = &gpu.blocking_read::<u32>(&record).unwrap()[..size_of::<Record>() / 4];
            let left: Record = bytemuck::pod_read_unaligned(bytemuck::cast_slice(words));
            let stamped: Vec<u32> =
                (0..experts as u32).map(|e| if needed(e) { CLOCK } else { before[e as usize] }).collect();
            let found = gpu.blocking_read::<u32>(&stamps).unwrap()[..experts].to_vec();
            let count = (0..experts as u32).filter(|e| needed(*e)).count() as u32;
            let untouched = words[1..].iter().all(|word| *word == BEFORE);
            if halted {
                expect("state", after == state)?;
                expect("stamps", found == before)?;
                expect("record", left.found == BEFORE && untouched)?;
                continue;
            }
            expect("stamps", found == stamped)?;
            if missing == Missing::Needed {
                expect("state", after == State { halt: 4, halt_layer: LAYER as u32, ..state })?;
                expect("needed", left.needed().filter(|e| *e < experts as u32).all(needed))?;
                expect("needed", (0..experts as u32).filter(|e| needed(*e)).all(|e| left.needed().any(|n| n == e)))?;
                expect("stamps of the record", left.stamps[..experts] == stamped)?;
                expect("found", left.found == BEFORE)?;
            } else {
                expect("state", after == state)?;
                expect("record", left.found == BEFORE + count && untouched)?;
            }
        }
        Ok(())
    }));
}

fn expect(what: &str, holds: bool) -> Outcome {
    if holds { Ok(()) } else { Err(format!("{what} is wrong")) }
}

fn stack(gpu: &halogen::Gpu, table: &[[u32; 2]], stamps: &View, experts: usize) -> Stack {
    let shards = vec![Shard { view: stamps.clone(), first: 0, count: experts }];
    let table = gpu.upload("table", table).unwrap();
    Stack { format: Format::F32, experts, rows: 1, columns: 4, shards, stride: 16, table, stamps: Some(stamps.clone()) }
}

fn routing(gpu: &halogen::Gpu, routed: &[u32], experts: usize, ranks: usize) -> Routing {
    let routed = gpu.upload("routed", routed).unwrap();
    Routing { gates: routed.clone(), routed, experts, ranks }
}
