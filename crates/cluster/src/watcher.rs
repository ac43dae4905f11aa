//! From what gossip knows to who is there: one process per name, and nobody gone by one unlucky look.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use chitchat::{ChitchatId, Heartbeat};
use skald_model::Timestamp;

use crate::node::Node;

/// A process as gossip knows it at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    pub(crate) id: ChitchatId,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) alive: bool,
    /// `None` as long as its description has not arrived.
    pub(crate) node: Option<Node>,
}

/// A member for people to look at, also one that failed or left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// What it told of itself.
    pub node: Node,
    /// Whether it is heard.
    pub alive: bool,
    /// When it was heard last; 0 if never by this process.
    pub last_heartbeat: Timestamp,
}

/// Keeps who is there.
pub(crate) struct Watcher {
    /// How long somebody must be missing before he is gone. A process that was stopped for a while finds everybody silent
    /// at first.
    confirm: Duration,
    present: BTreeMap<String, Node>,
    missing_since: HashMap<String, Instant>,
    heard: HashMap<ChitchatId, (Heartbeat, Timestamp)>,
    sightings: Vec<Sighting>,
}

impl Watcher {
    pub(crate) fn new(confirm: Duration) -> Self {
        Self {
            confirm,
            present: BTreeMap::new(),
            missing_since: HashMap::new(),
            heard: HashMap::new(),
            sightings: Vec::new(),
        }
    }

    /// Takes in what gossip knows now. The members that are there, by name, if that has changed.
    pub(crate) fn look(
        &mut self,
        observed: Vec<Observed>,
        now: Instant,
        time: Timestamp,
    ) -> Option<Vec<Node>> {
        self.heard.retain(|id, _| observed.iter().any(|o| o.id == *id));
        for o in &observed {
            let heard =
                self.heard.entry(o.id.clone()).or_insert((o.heartbeat, if o.alive { time } else { 0 }));
            if heard.0 != o.heartbeat {
                *heard = (o.heartbeat, time);
            }
        }
        let newest = newest_of_each_name(observed);
        let mut present: BTreeMap<String, Node> = newest
            .iter()
            .filter(|(_, (o, _))| o.alive)
            .map(|(name, (_, node))| (name.clone(), node.clone()))
            .collect();
        self.missing_since.retain(|name, _| !present.contains_key(name));
        for (name, node) in &self.present {
            if present.contains_key(name) || !node.state.is_present() {
                continue;
            }
            let since = *self.missing_since.entry(name.clone()).or_insert(now);
            if now.duration_since(since) < self.confirm {
                present.insert(name.clone(), node.clone());
            }
        }
        self.missing_since.retain(|name, _| present.contains_key(name));
        self.sightings = newest
            .into_values()
            .map(|(o, node)| Sighting {
                alive: present.contains_key(&node.name),
                last_heartbeat: self.heard.get(&o.id).map_or(0, |h| h.1),
                node,
            })
            .collect();
        (present != self.present).then(|| {
            self.present = present;
            self.present.values().cloned().collect()
        })
    }

    /// Everybody that gossip knows, by name.
    pub(crate) fn sightings(&self) -> Vec<Sighting> {
        self.sightings.clone()
    }
}

/// Of processes of one name the one that started last: the others are its past.
fn newest_of_each_name(observed: Vec<Observed>) -> BTreeMap<String, (Observed, Node)> {
    let mut newest: BTreeMap<String, (Observed, Node)> = BTreeMap::new();
    for o in observed {
        let Some(node) = o.node.clone() else { continue };
        match newest.get(&node.name) {
            Some((_, known)) if known.generation > node.generation => {}
            _ => drop(newest.insert(node.name.clone(), (o, node))),
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Role, State};

    const CONFIRM: Duration = Duration::from_millis(600);

    fn observed(name: &str, generation: u64, state: State, alive: bool) -> Observed {
        let id = ChitchatId::new(name, generation, ([127, 0, 0, 1], 1).into());
        let node = Node {
            name: name.into(),
            generation,
            gossip: id.gossip_advertise_addr,
            roles: vec![Role::Ingester],
            state,
            zone: String::new(),
            grpc: format!("{name}:{generation}"),
            http: String::new(),
            tokens: 1,
        };
        Observed { id, heartbeat: Heartbeat::default(), alive, node: Some(node) }
    }

    fn names(nodes: Option<Vec<Node>>) -> Option<Vec<String>> {
        nodes.map(|n| n.into_iter().map(|n| n.grpc).collect())
    }

    #[test]
    fn the_silent_are_gone_only_when_they_stay_silent() {
        let mut watcher = Watcher::new(CONFIRM);
        let start = Instant::now();
        let both = |b: bool| vec![observed("a", 1, State::Active, true), observed("b", 1, State::Active, b)];
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(names(watcher.look(both(true), at(0), 1)), Some(vec!["a:1".into(), "b:1".into()]));
        assert_eq!(watcher.look(both(false), at(100), 2), None);
        assert_eq!(watcher.look(both(true), at(500), 3), None);
        assert_eq!(watcher.look(both(false), at(1000), 4), None);
        assert_eq!(watcher.look(both(false), at(1500), 5), None, "it was heard in between");
        assert_eq!(names(watcher.look(both(false), at(1600), 6)), Some(vec!["a:1".into()]));
        assert!(!watcher.sightings()[1].alive);
        assert_eq!(names(watcher.look(both(true), at(1700), 7)), Some(vec!["a:1".into(), "b:1".into()]));
    }

    #[test]
    fn who_said_that_it_goes_is_gone_at_once() {
        let mut watcher = Watcher::new(CONFIRM);
        let now = Instant::now();
        assert!(watcher.look(vec![observed("a", 1, State::Left, true)], now, 1).is_some());
        assert_eq!(names(watcher.look(vec![observed("a", 1, State::Left, false)], now, 2)), Some(Vec::new()));
    }

    #[test]
    fn a_restart_takes_the_place_of_its_past() {
        let mut watcher = Watcher::new(CONFIRM);
        let now = Instant::now();
        let old = || observed("a", 1, State::Active, true);
        assert!(watcher.look(vec![old()], now, 1).is_some());
        let seen = watcher.look(vec![observed("a", 2, State::Joining, true), old()], now, 2);
        assert_eq!(names(seen), Some(vec!["a:2".into()]));
    }
}
