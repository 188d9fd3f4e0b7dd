//! Peers that misbehave, on both sides of one tcplb at once, for each way to move the bytes.
//!
//! A peer follows a script ([`script`]); a stage ([`stage`]) plays hundreds of pairs of them in one thread, compares each
//! byte that arrives with what was said there, and judges each ending. A house ([`house`]) is a tcplb with a well-behaved
//! guest who must notice nothing, and with books that must add up once everybody has left.
#![forbid(unsafe_code)]

mod calm;
mod cuts;
mod differential;
mod doors;
mod house;
mod script;
mod stage;
mod table;
mod voice;

macro_rules! for_each_relay {
    ($($relay:ident)*) => {$(
        mod $relay {
            const RELAY: &str = stringify!($relay);

            #[test]
            fn everybody_with_everybody() {
                crate::table::everybody_with_everybody(RELAY);
            }

            #[test]
            fn an_end_at_any_byte() {
                crate::cuts::an_end_at_any_byte(RELAY);
            }

            #[test]
            fn who_is_stalled_costs_nothing_and_loses_nothing() {
                crate::calm::who_is_stalled_costs_nothing_and_loses_nothing(RELAY);
            }

            #[test]
            fn behind_a_closed_door_is_another() {
                crate::doors::behind_a_closed_door_is_another(RELAY);
            }
        }
    )*};
}

for_each_relay!(copy splice adaptive);
