//! Peers that misbehave, on both sides of one tcplb at once, for each way to move the bytes.
//!
//! A peer follows a script ([`script`]). A scenario ([`scenario`]) plays hundreds of pairs of peers in one thread. It compares
//! each byte that arrives with what was sent there ([`byte_pattern`]), and checks each ending against its oracle. The harness
//! ([`harness`]) is a tcplb with a canary: a well-behaved client that must notice nothing. Its counters must add up at the end.
#![forbid(unsafe_code)]

mod byte_pattern;
mod differential;
mod ends;
mod harness;
mod scenario;
mod script;
mod stalled;
mod table;
mod unreachable;

macro_rules! for_each_relay {
    ($($relay:ident)*) => {$(
        mod $relay {
            const RELAY: &str = stringify!($relay);

            #[test]
            fn every_script_plays_with_every_script() {
                crate::table::every_script_plays_with_every_script(RELAY);
            }

            #[test]
            fn a_fin_or_reset_after_any_byte_arrives() {
                crate::ends::a_fin_or_reset_after_any_byte_arrives(RELAY);
            }

            #[test]
            fn a_stalled_peer_costs_no_cpu_or_memory_and_loses_no_byte() {
                crate::stalled::a_stalled_peer_costs_no_cpu_or_memory_and_loses_no_byte(RELAY);
            }

            #[test]
            fn a_client_of_an_unreachable_backend_is_served_by_the_next() {
                crate::unreachable::a_client_of_an_unreachable_backend_is_served_by_the_next(RELAY);
            }
        }
    )*};
}

for_each_relay!(copy splice adaptive);
