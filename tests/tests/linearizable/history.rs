//! Clients that ask at random, and what they were answered.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use stated_shared::{
    Bytes, Change, Commit, Content, Expect as WireExpect, Failure, FailureKind, Reply, Request, Selector, SerialRule,
    StateName, Version, VersionInfo,
};
use stated_tests::{Direct, Host, Random};

use super::model::{Answer, Ask, Expect};

/// The letters of the states of one history.
const STATES: [char; 3] = ['a', 'b', 'c'];
/// Different contents: few, so that identical ones meet.
const CONTENTS: u64 = 5;

/// One request, and its answer where it came.
#[derive(Debug, Clone)]
pub struct Event {
    pub asked_at: u64,
    pub ask: Ask,
    pub answered: Option<(u64, Answer)>,
}

/// Numbers all questions and answers in the order in which they happened.
pub struct Recorder {
    clock: AtomicU64,
    events: Mutex<Vec<Event>>,
}

impl Recorder {
    pub fn new() -> Self {
        Self { clock: AtomicU64::new(0), events: Mutex::new(Vec::new()) }
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    pub fn into_events(self) -> Vec<Event> {
        self.events.into_inner().expect("no client panicked")
    }
}

pub struct Client {
    direct: Direct,
    random: Random,
    /// Which history: its states have names of their own.
    history: usize,
    /// The versions that it saw last.
    seen: HashMap<char, u64>,
    contents: HashMap<String, u64>,
}

impl Client {
    pub fn connect(host: &Host, mut random: Random) -> Self {
        let direct = Direct::connect(&host.socket(), &mut random).expect("a connection");
        let contents = (0..CONTENTS).map(|n| (stated_tests::sha256(n.to_string().as_bytes()), n)).collect();
        Self { direct, random, history: 0, seen: HashMap::new(), contents }
    }

    pub fn begin(&mut self, history: usize) {
        self.history = history;
        self.seen.clear();
    }

    /// `false` where no answer came: the connection is of no more use.
    pub fn ask_something(&mut self, recorder: &Recorder) -> bool {
        let ask = self.any();
        let request = self.request(&ask);
        let asked_at = recorder.now();
        let answer = self.direct.ask(request, &[]);
        let answered_at = recorder.now();
        let answered = answer.ok().map(|answer| (answered_at, self.answer(answer)));
        let goes_on = answered.is_some();
        recorder.events.lock().expect("no client panicked").push(Event { asked_at, ask, answered });
        goes_on
    }

    fn any(&mut self) -> Ask {
        let state = STATES[self.random.below(STATES.len() as u64) as usize];
        match self.random.below(10) {
            0..=4 => Ask::Put { changes: vec![self.change(state)] },
            5 => Ask::Put { changes: STATES.iter().map(|state| self.change(*state)).collect() },
            6 => Ask::Show { state },
            7 | 8 => Ask::Get { state },
            _ => Ask::List,
        }
    }

    fn change(&mut self, state: char) -> (char, Expect, Option<u64>) {
        let expect = match self.random.below(4) {
            0 => Expect::Absent,
            1 => self.seen.get(&state).map_or(Expect::Any, |version| Expect::Version(*version)),
            _ => Expect::Any,
        };
        let content = match self.random.below(CONTENTS + 1) {
            CONTENTS => None,
            n => Some(n),
        };
        (state, expect, content)
    }

    fn name(&self, state: char) -> StateName {
        StateName::parse(&format!("history/{}/{state}", self.history)).expect("a name")
    }

    fn request(&self, ask: &Ask) -> Request {
        match ask {
            Ask::Put { changes } => Request::Commit(Commit {
                changes: changes.iter().map(|change| self.wire_change(*change)).collect(),
                locks: Vec::new(),
                message: None,
                labels: BTreeMap::new(),
                serials: SerialRule::Refuse,
            }),
            Ask::Show { state } => Request::Show { state: self.name(*state), at: Selector::Newest },
            Ask::Get { state } => Request::Get { state: self.name(*state), at: Selector::Newest },
            Ask::List => Request::List { glob: Some(format!("history/{}/*", self.history)), after: None },
        }
    }

    fn wire_change(&self, (state, expect, content): (char, Expect, Option<u64>)) -> Change {
        Change {
            state: self.name(state),
            expect: match expect {
                Expect::Any => WireExpect::Any,
                Expect::Absent => WireExpect::Absent,
                Expect::Version(version) => WireExpect::Version(Version(version)),
            },
            content: content.map_or(Content::Removed, |n| Content::Inline(Bytes(n.to_string().into_bytes()))),
        }
    }

    fn answer(&mut self, answer: Result<Reply, Failure>) -> Answer {
        let answer = match answer {
            Ok(Reply::Committed(committed)) => {
                let row =
                    |state: &stated_shared::CommittedState| (letter(&state.state), state.version.0, state.changed);
                let mut rows: Vec<_> = committed.states.iter().map(row).collect();
                rows.sort();
                Answer::Committed(rows)
            }
            Ok(Reply::Version(info)) => Answer::Version(info.version.0, self.content(&info)),
            Ok(Reply::Fetched(fetched)) => Answer::Version(fetched.version.version.0, self.content(&fetched.version)),
            Ok(Reply::Versions(page)) => {
                let row = |info: &VersionInfo| Some((letter(&info.state), info.version.0, self.content(info)?));
                Answer::Versions(page.versions.iter().filter_map(row).collect())
            }
            Err(failure) if failure.kind == FailureKind::Conflict => Answer::Conflict,
            Err(failure) if failure.kind == FailureKind::NotFound => Answer::NotFound,
            other => panic!("{other:?}"),
        };
        if let Answer::Committed(rows) = &answer {
            self.seen.extend(rows.iter().map(|(state, version, _)| (*state, *version)));
        }
        answer
    }

    fn content(&self, info: &VersionInfo) -> Option<u64> {
        info.content.as_ref().map(|content| self.contents[&content.sha256.to_string()])
    }
}

fn letter(name: &StateName) -> char {
    name.as_str().chars().next_back().expect("a letter")
}
