//! What is played over every route.

use crate::ends;
use crate::script::Step::{
    AwaitDelivery, AwaitInput, Finish, Pause, Receive, Reset, Send, ShrinkWindow, Stall, StopReading,
};
use crate::script::{ALL, Script, Step, all_scripts};

/// A client and a backend that play with each other.
#[derive(Clone)]
pub struct Case {
    pub client: Script,
    pub backend: Script,
    /// Under which name it is counted, where many cases are one.
    pub crowd: &'static str,
}

impl Case {
    /// The script of a side, and that of the other one.
    pub fn sides(&self, side: usize) -> (&Script, &Script) {
        if side == 0 { (&self.client, &self.backend) } else { (&self.backend, &self.client) }
    }
}

fn case((client, backend): (Script, Script)) -> Case {
    Case { client, backend, crowd: "" }
}

/// Each script as a client with each script as a backend.
pub fn every_pair() -> Vec<Case> {
    let with_all = |client: Script| all_scripts().into_iter().map(move |backend| case((client.clone(), backend)));
    all_scripts().into_iter().flat_map(with_all).collect()
}

/// FINs and resets at the edges of buffers and anywhere else, from both sides.
pub fn an_end_after_any_byte() -> Vec<Case> {
    ends::pairs(&mut ends::random()).into_iter().map(case).collect()
}

/// Crowds whose servers close with unread input, and crowds of clients that reset. Redis closes so at `maxclients`,
/// and a web server with an early 413.
pub fn crowds() -> Vec<Case> {
    use {Receive as H, Send as S};
    let (answers, mib) = (20_000, 1 << 20);
    let refuses = |answer| [StopReading, AwaitInput, S(answer), Step::Close];
    let rejects = [H(1000), StopReading, AwaitInput, S(answers), Step::Close];
    let slowly = [ShrinkWindow, Stall, H(ALL)];
    let crowds: [(&str, usize, &[Step], &[Step]); 10] = [
        ("a backend answers 20 000 bytes and closes with unread input", 100, &[S(100), H(ALL)], &refuses(answers)),
        ("20 000 bytes, and the client reads late", 100, &[ShrinkWindow, S(100), Stall, H(ALL)], &refuses(answers)),
        ("a backend answers 1 MiB and closes with unread input", 30, &[S(100), H(ALL)], &refuses(mib)),
        ("1 MiB, and the client reads late", 30, &[ShrinkWindow, S(100), Stall, H(ALL)], &refuses(mib)),
        ("an early answer during an upload of 3 MB", 60, &[S(3 * mib), H(ALL)], &rejects),
        ("an early answer, and the client reads when it cannot send", 60, &[StopReading, S(3 * mib), H(ALL)], &rejects),
        ("a client sends 20 000 bytes and resets", 100, &[S(answers), Reset], &[H(ALL)]),
        ("20 000 bytes, and the backend reads late", 100, &[S(answers), Reset], &slowly),
        ("a client sends 1 MiB and resets once all is delivered", 30, &[S(mib), AwaitDelivery, Reset], &[H(ALL)]),
        ("a client sends 1 MiB and resets, the backend reads late", 30, &[S(mib), Reset], &slowly),
    ];
    cases_of(&crowds)
}

/// One rule each about a side that fails, often enough that a breach shows in every run.
pub fn rules() -> Vec<Case> {
    use {Receive as H, Send as S};
    let pauses = [ShrinkWindow, Pause, H(ALL)];
    let late = [ShrinkWindow, Stall, H(ALL)];
    // More than the receiver takes while it does not read.
    let more = 400_000;
    let rejects = [H(1000), StopReading, AwaitInput, S(20_000), Step::Close];
    let rules: [(&str, usize, &[Step], &[Step]); 8] = [
        ("a client's FIN before its reset arrives", 40, &[S(20_000), Finish, Reset], &late),
        ("a backend's FIN before its reset arrives", 40, &late, &[S(20_000), Finish, Reset]),
        ("a client's reset waits for a backend that pauses", 10, &[S(more), Reset], &pauses),
        ("a backend's reset waits for a client that pauses", 10, &pauses, &[S(more), Reset]),
        ("a client's reset waits for a backend that reads late", 20, &[S(more), AwaitDelivery, Reset], &late),
        ("a client's bytes arrive though writing to it fails", 80, &rejects, &[S(3 << 20), H(ALL)]),
        ("a backend's bytes arrive though writing to it fails", 80, &[S(3 << 20), H(ALL)], &rejects),
        ("a FIN stays a FIN", 10, &[S(more)], &[ShrinkWindow, Stall, H(ALL), S(10)]),
    ];
    cases_of(&rules)
}

fn cases_of(crowds: &[(&'static str, usize, &[Step], &[Step])]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &(crowd, size, client, backend) in crowds {
        let (client, backend) = (Script::new("client", client), Script::new("backend", backend));
        let one = Case { client, backend, crowd };
        cases.extend(std::iter::repeat_n(one, size));
    }
    cases
}
