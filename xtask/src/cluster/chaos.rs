//! What is done to the cluster. One thing at a time, as a quorum of two of three allows, but before the cluster has got
//! over it completely.

use std::thread::sleep;
use std::time::Instant;

use anyhow::Result;

use super::members::{Member, Members};
use crate::random::Random;

/// Something that is done.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// `kill -9` of an ingester, which comes back after a while.
    KillIngester,
    /// An ingester is stopped and goes on later: to the others it is dead, to itself it is not.
    FreezeIngester,
    /// SIGTERM of an ingester, which comes back: one step of a rolling restart.
    RestartIngester,
    /// One more ingester comes, or it goes again.
    Scale,
    KillQuerier,
    FreezeQuerier,
    KillDoor,
    KillCompactor,
    /// An ingester and another member, or all of them, hear nothing of each other for a while.
    CutIngester,
    /// No byte is free where an ingester writes its log.
    FillDisk,
}

const ACTS: [(Act, u64); 10] = [
    (Act::KillIngester, 30),
    (Act::FreezeIngester, 15),
    (Act::RestartIngester, 15),
    (Act::Scale, 15),
    (Act::KillQuerier, 10),
    (Act::FreezeQuerier, 5),
    (Act::KillDoor, 10),
    (Act::KillCompactor, 10),
    (Act::CutIngester, 30),
    (Act::FillDisk, 20),
];

fn choose(members: &Members, random: &mut Random) -> Act {
    let possible = |act: &Act| match act {
        Act::CutIngester => members.network.is_some(),
        Act::FillDisk => members.ingesters.iter().all(|m| m.disk.is_some()),
        _ => true,
    };
    let acts = || ACTS.iter().filter(|(act, _)| possible(act));
    let mut number = random.within(0..acts().map(|(_, weight)| weight).sum());
    for (act, weight) in acts() {
        if number < *weight {
            return *act;
        }
        number -= weight;
    }
    Act::KillIngester
}

/// Does one thing after another until `deadline`.
pub(super) fn run(members: &mut Members, seed: u64, deadline: Instant) -> Result<()> {
    let mut random = Random::new(seed, 0xc4a05);
    let begun = Instant::now();
    while Instant::now() < deadline {
        sleep(random.millis(500..4000));
        let act = choose(members, &mut random);
        let name = act_on(members, act, &mut random)?;
        println!("cluster-test: {:5.1} s {act:?} {name}", begun.elapsed().as_secs_f64());
    }
    Ok(())
}

fn act_on(members: &mut Members, act: Act, random: &mut Random) -> Result<String> {
    let steady = members.steady;
    let any = |of: &mut [Member], random: &mut Random| random.within(0..of.len() as u64) as usize;
    match act {
        Act::KillIngester => {
            let member = any(&mut members.ingesters[..steady], random);
            kill_and_restart(&mut members.ingesters[member], random)
        }
        Act::FreezeIngester => {
            let member = any(&mut members.ingesters[..steady], random);
            freeze_and_wake(&mut members.ingesters[member], random)
        }
        Act::RestartIngester => {
            let number = any(&mut members.ingesters[..steady], random);
            let member = &mut members.ingesters[number];
            member.stop()?;
            sleep(random.millis(0..2000));
            member.spawn()?;
            member.wait_ready()?;
            Ok(member.name.clone())
        }
        Act::Scale => {
            let member = &mut members.ingesters[steady];
            if member.is_running()? {
                member.stop()?;
                return Ok(format!("{} goes", member.name));
            }
            member.spawn()?;
            member.wait_ready()?;
            Ok(format!("{} comes", member.name))
        }
        Act::KillQuerier => {
            let member = any(&mut members.queriers, random);
            kill_and_restart(&mut members.queriers[member], random)
        }
        Act::FreezeQuerier => {
            let member = any(&mut members.queriers, random);
            freeze_and_wake(&mut members.queriers[member], random)
        }
        Act::KillDoor => {
            let member = any(&mut members.doors, random);
            kill_and_restart(&mut members.doors[member], random)
        }
        Act::KillCompactor => {
            let member = any(&mut members.compactors, random);
            kill_and_restart(&mut members.compactors[member], random)
        }
        Act::CutIngester => cut_and_join(members, random),
        Act::FillDisk => {
            let member = any(&mut members.ingesters[..steady], random);
            fill_and_clear(&members.ingesters[member], random)
        }
    }
}

fn cut_and_join(members: &Members, random: &mut Random) -> Result<String> {
    let Some(network) = &members.network else { return Ok("nobody".to_owned()) };
    let member = &members.ingesters[random.within(0..members.steady as u64) as usize];
    let everybody =
        members.doors.iter().chain(&members.queriers).chain(&members.compactors).chain(&members.ingesters);
    let mut others: Vec<&Member> = everybody.filter(|m| m.number != member.number).collect();
    if random.percent(60) {
        others = vec![others[random.within(0..others.len() as u64) as usize]];
    }
    for other in &others {
        network.cut(member.number, other.number)?;
    }
    let absent = if random.percent(50) { random.millis(500..3000) } else { random.millis(6000..15_000) };
    sleep(absent);
    for other in &others {
        network.join(member.number, other.number)?;
    }
    let from = if others.len() == 1 { others[0].name.as_str() } else { "everybody" };
    Ok(format!("{} from {from} (for {absent:?})", member.name))
}

fn fill_and_clear(member: &Member, random: &mut Random) -> Result<String> {
    let Some(disk) = &member.disk else { return Ok("nobody".to_owned()) };
    disk.fill()?;
    let absent = random.millis(1000..12_000);
    sleep(absent);
    disk.clear()?;
    Ok(format!("{} (full for {absent:?})", member.name))
}

fn kill_and_restart(member: &mut Member, random: &mut Random) -> Result<String> {
    member.kill()?;
    // Sometimes back before anybody has noticed, sometimes long after others have taken over.
    let absent = if random.percent(50) { random.millis(0..1500) } else { random.millis(4000..15_000) };
    sleep(absent);
    member.spawn()?;
    member.wait_ready()?;
    Ok(format!("{} (away for {absent:?})", member.name))
}

fn freeze_and_wake(member: &mut Member, random: &mut Random) -> Result<String> {
    member.freeze()?;
    let absent = if random.percent(50) { random.millis(500..3000) } else { random.millis(6000..15_000) };
    sleep(absent);
    member.wake()?;
    Ok(format!("{} (frozen for {absent:?})", member.name))
}
