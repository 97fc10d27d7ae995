//! Random histories of three members: everything that has to hold at the end of them.

use std::collections::BTreeMap;

use sarsen_protocol::message::MutationKind;

use super::harness::World;

/// Runs a seed: faults, then peace until all is answered.
fn run(seed: u64, steps: usize) -> World {
    let mut world = World::new(seed, 3);
    for _ in 0..steps {
        world.step(true);
    }
    for _ in 0..400_000 {
        world.step(false);
        let all_answered = world.clients.iter().all(|client| client.is_done());
        if all_answered && world.is_well() && same(&world) {
            check(seed, &world);
            return world;
        }
    }
    let clients: Vec<_> = world
        .clients
        .iter()
        .map(|client| (client.asked.len(), client.answered.len(), client.link))
        .collect();
    panic!(
        "seed {seed}: no end; changing {}, active {:?}, clients {clients:?}",
        world.is_changing(),
        world.active
    );
}

fn same(world: &World) -> bool {
    let Some((_, members, _)) = &world.active else {
        return false;
    };
    let first = &world.nodes[members[0].0].toy;
    members
        .iter()
        .all(|(server, _)| world.nodes[*server].toy.history.len() == first.history.len())
}

fn check(seed: u64, world: &World) {
    let (_, members, _) = world.active.as_ref().unwrap();
    let first = &world.nodes[members[0].0].toy;
    for (server, _) in members {
        assert_eq!(
            world.nodes[*server].toy.history, first.history,
            "seed {seed}"
        );
    }
    let content = first.content();
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    let mut places = BTreeMap::new();
    for one in &first.history {
        let (session, number) = (one.request.session.0, one.request.number);
        let before = last.insert(session, number).unwrap_or(0);
        assert!(
            before < number,
            "seed {seed}: the order of {session}: {before}, {number}"
        );
        places.insert((session, number), one);
    }
    for client in &world.clients {
        for (number, told) in &client.answered {
            let one = places
                .get(&(client.session, *number))
                .unwrap_or_else(|| panic!("seed {seed}: {} {number} is lost", client.session));
            assert_eq!(one.bytes, client.asked[number].bytes, "seed {seed}");
            match told {
                Some(offset) => {
                    assert_eq!(one.kind, MutationKind::Append);
                    assert_eq!(one.offset, *offset, "seed {seed}");
                }
                None => assert_eq!(Some(one.offset), client.asked[number].offset),
            }
        }
    }
    assert!(!content.is_empty());
}

#[test]
fn whatever_happens_members_are_equal_and_acks_are_kept_once_and_in_order() {
    let rounds = std::env::var("SARSEN_TEST_ROUNDS").ok();
    let rounds = rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(10);
    let (mut acked, mut kills, mut changes) = (0, 0, 0);
    for seed in 1..=rounds {
        let world = run(seed, 6000);
        acked += world.acked;
        kills += world.kills;
        changes += world.changes;
    }
    println!("{rounds} seeds: {acked} answers, {kills} kills, {changes} versions");
    assert!(kills as u64 > rounds && changes as u64 > 2 * rounds && acked as u64 > 20 * rounds);
}
