//! The confinement of the kernel engine's helper: one capability, no file to write, no TCP.
//!
//! | what | how |
//! |---|---|
//! | user | the account that the balancer changes to, if it does |
//! | capabilities | CAP_NET_ADMIN only: permitted, effective, inheritable and ambient, so that the program it starts has it too. The bounding set loses the others, if the process may change it |
//! | no_new_privs | no program that it starts gains more by a set-user-id bit or file capabilities |
//! | Landlock | reading files and starting programs; nothing else: no writing, no TCP, no signals or abstract sockets of others |

use super::account::{self, Account};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, Scope,
    path_beneath_rules,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// The version of Landlock's rules that this was written for.
const ABI_KNOWN: ABI = ABI::V6;

/// The one capability that is kept.
const KEPT: CapabilitySet = CapabilitySet::NET_ADMIN;

/// Why the helper can't be confined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotConfined {
    /// The process lacks CAP_NET_ADMIN; the text says which account it has.
    Capability(String),
    /// Something else, in words.
    Other(String),
}

/// Confines this thread and those that it starts, for good. It has no other thread yet.
pub fn confine_to_net_admin(user: Option<&str>, group: Option<&str>, sandbox: bool) -> Result<(), NotConfined> {
    let other = |what: &'static str| move |error| NotConfined::Other(format!("{what}: {error}"));
    check_net_admin().map_err(NotConfined::Capability)?;
    let account = user.map(|user| Account::find(user, group)).transpose().map_err(NotConfined::Other)?;
    // Without CAP_SETPCAP the set stays: no program gains by it under no_new_privs.
    let permitted = capabilities(None).map_err(other("can't read capabilities"))?.permitted;
    if permitted.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(KEPT).iter() {
            // An older kernel does not know them all.
            let _ = remove_capability_from_bounding_set(capability);
        }
    }
    if let Some(account) = account.filter(|account| !account.is_ours()) {
        account.become_it().map_err(|error| NotConfined::Other(format!("can't become {account}: {error}")))?;
    }
    let only = CapabilitySets { effective: KEPT, permitted: KEPT, inheritable: KEPT };
    set_capabilities(None, only).map_err(other("can't give up capabilities"))?;
    configure_capability_in_ambient_set(KEPT, true).map_err(other("can't pass CAP_NET_ADMIN on"))?;
    set_no_new_privs(true).map_err(other("can't set no_new_privs"))?;
    if sandbox {
        enter_sandbox().map_err(|error| NotConfined::Other(format!("can't set up the sandbox: {error}")))?;
    }
    Ok(())
}

/// Fails if this thread lacks CAP_NET_ADMIN.
pub fn check_net_admin() -> Result<(), String> {
    if capabilities(None).is_ok_and(|sets| sets.permitted.contains(KEPT)) { Ok(()) } else { Err(account::own()) }
}

fn enter_sandbox() -> Result<(), landlock::RulesetError> {
    let reading = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute;
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI_KNOWN))?
        .handle_access(AccessNet::from_all(ABI_KNOWN))?
        .scope(Scope::from_all(ABI_KNOWN))?
        .create()?;
    // The programs need libraries, whose places differ.
    rules.add_rules(path_beneath_rules(["/"], reading))?.restrict_self()?;
    Ok(())
}
