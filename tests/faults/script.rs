//! What a peer does, as data. The same scripts serve clients and backends.

/// One thing after the other. Whoever does not read on purpose reads all the time, whatever the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Says so many bytes, as fast as they are taken.
    Send(u64),
    /// Says so many bytes one at a time, the next when the other side has heard the last.
    Trickle(u64),
    /// Says one byte as urgent data (MSG_OOB).
    Urgent,
    /// Waits until it has heard so many bytes in all. Given up when no more will come: the other side has ended, or it
    /// waits too and everything said has been heard.
    Hear(u64),
    /// Waits until the other side has heard all that was said.
    Settle,
    /// Stops reading, until the other side can say no more: every buffer on the way is full, or it has nothing to say.
    Stall,
    /// Stops reading until the other side has been gone for a while, shorter than tcplb is patient with it.
    Pause,
    /// Reads nothing from now on, until its next [`Hear`].
    Deaf,
    /// Waits until there is something to read. Given up when the other side can say no more.
    Await,
    /// From now on reads through a small window, so that every buffer before it fills.
    Narrow,
    /// A FIN; reading goes on. Comes at the end of a script by itself.
    Finish,
    /// Closes with a reset.
    Reset,
    /// Closes without a look at what may still come, as a program does that just exits.
    Leave,
}

use Step::{Finish, Hear, Leave, Narrow, Reset, Send, Settle, Stall, Trickle, Urgent};

/// Never enough: to the other side's end.
pub const ALL: u64 = u64::MAX;

/// A name and what it stands for.
#[derive(Clone, Debug)]
pub struct Script {
    pub name: String,
    pub steps: Vec<Step>,
}

impl Script {
    pub fn new(name: impl Into<String>, steps: &[Step]) -> Script {
        Script { name: name.into(), steps: steps.to_vec() }
    }

    /// May the other side see a FIN?
    pub fn finishes(&self) -> bool {
        !self.cuts() || self.steps.iter().any(|step| matches!(step, Finish | Leave))
    }

    /// How many bytes it hears, if the other side sends as many, before it is over.
    pub fn awaits(&self) -> u64 {
        let heard = |step: &Step| if let Hear(count) = step { *count } else { 0 };
        self.steps.iter().map(heard).max().unwrap_or(0)
    }

    /// May the other side see a reset?
    pub fn cuts(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Reset | Leave))
    }
}

/// Everybody who takes part in the table.
pub fn everybody() -> Vec<Script> {
    const MIB: u64 = 1 << 20;
    [
        ("only listens", &[Hear(ALL)][..]),
        ("finishes at once", &[Finish, Hear(ALL)]),
        ("says a word", &[Send(10)]),
        ("asks, hears, asks again", &[Send(100), Hear(100), Send(100)]),
        ("answers", &[Hear(100), Send(70_000)]),
        ("answers before it is asked", &[Send(70_000), Hear(1), Send(1)]),
        ("trickles", &[Trickle(50)]),
        ("floods", &[Send(3 * MIB)]),
        ("stalls", &[Send(10), Stall, Send(10)]),
        ("hears slowly", &[Narrow, Stall, Hear(ALL)]),
        ("says a word urgently", &[Send(10), Urgent, Hear(10), Urgent, Send(10)]),
        ("floods urgently", &[Send(MIB), Urgent, Send(MIB), Settle, Urgent]),
        ("resets at once", &[Reset]),
        ("answers and resets", &[Hear(100), Send(20_000), Reset]),
        ("resets in its flood", &[Send(MIB), Reset]),
        ("resets after its FIN", &[Send(10), Finish, Hear(10), Reset]),
        ("leaves at once", &[Leave]),
        ("asks and leaves", &[Send(10), Hear(10), Leave]),
    ]
    .map(|(name, steps)| Script::new(name, steps))
    .to_vec()
}
