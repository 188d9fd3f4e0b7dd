//! What a peer does, as data. The same scripts serve clients and backends.

/// One thing after the other. A peer reads all the time, whatever the step, unless a step stops it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Writes so many bytes, as fast as they are taken.
    Send(u64),
    /// Writes so many bytes one at a time, the next when the other side has received the last.
    Trickle(u64),
    /// Writes one byte as urgent data (MSG_OOB).
    Urgent,
    /// Waits until it has received so many bytes in all. Given up when no more will come: the other side has ended, or it
    /// waits too and everything written has been received.
    Receive(u64),
    /// Waits until the other side has received all that was written.
    AwaitDelivery,
    /// Stops reading, until the other side can write no more: every buffer on the way is full, or it has nothing to write.
    Stall,
    /// Stops reading until the other side has been gone for a while, shorter than tcplb is patient with it.
    Pause,
    /// Reads nothing from now on, until its next [`Receive`].
    StopReading,
    /// Waits until there is something to read. Given up when the other side can say no more.
    AwaitInput,
    /// From now on reads through a small window, so that every buffer before it fills.
    ShrinkWindow,
    /// A FIN; reading goes on. Comes at the end of a script by itself.
    Finish,
    /// Closes with a reset.
    Reset,
    /// Closes without a look at what may still come, as a program does that just exits.
    Close,
}

use Step::{AwaitDelivery, Close, Finish, Receive, Reset, Send, ShrinkWindow, Stall, Trickle, Urgent};

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
        !self.cuts() || self.steps.iter().any(|step| matches!(step, Finish | Close))
    }

    /// How many bytes it receives, if the other side sends as many, before it is over.
    pub fn awaits(&self) -> u64 {
        let received = |step: &Step| if let Receive(count) = step { *count } else { 0 };
        self.steps.iter().map(received).max().unwrap_or(0)
    }

    /// May the other side see a reset?
    pub fn cuts(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Reset | Close))
    }
}

/// Every script of the table.
pub fn all_scripts() -> Vec<Script> {
    const MIB: u64 = 1 << 20;
    [
        ("only reads", &[Receive(ALL)][..]),
        ("finishes at once", &[Finish, Receive(ALL)]),
        ("sends 10 bytes", &[Send(10)]),
        ("asks, reads, asks again", &[Send(100), Receive(100), Send(100)]),
        ("answers", &[Receive(100), Send(70_000)]),
        ("answers before it is asked", &[Send(70_000), Receive(1), Send(1)]),
        ("trickles", &[Trickle(50)]),
        ("floods", &[Send(3 * MIB)]),
        ("stalls", &[Send(10), Stall, Send(10)]),
        ("reads slowly", &[ShrinkWindow, Stall, Receive(ALL)]),
        ("sends urgent bytes", &[Send(10), Urgent, Receive(10), Urgent, Send(10)]),
        ("floods urgently", &[Send(MIB), Urgent, Send(MIB), AwaitDelivery, Urgent]),
        ("resets at once", &[Reset]),
        ("answers and resets", &[Receive(100), Send(20_000), Reset]),
        ("resets in its flood", &[Send(MIB), Reset]),
        ("resets after its FIN", &[Send(10), Finish, Receive(10), Reset]),
        ("closes at once", &[Close]),
        ("asks and closes", &[Send(10), Receive(10), Close]),
    ]
    .map(|(name, steps)| Script::new(name, steps))
    .to_vec()
}
