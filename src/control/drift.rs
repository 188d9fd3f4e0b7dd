//! What runs and does not stand in the file.

use super::config_state::{Members, connections};
use crate::base::AdminState;
use crate::config::diff::{self, Changes, Difference, Subject, What};
use crate::config::model::{Backend, Origin};
use crate::pool::{Member, Published};

/// What runs and does not stand in the file: it was changed at run time, or needs a restart. The changes lead from the file to
/// what runs.
pub fn drift(published: &Published) -> Changes {
    let (snapshot, running, file) = published.current();
    let discovered = published.discovered();
    let members = Members::of(&snapshot);
    let mut changes = diff::between(&file, &running);
    for change in &mut changes.0 {
        change.connections = connections(&snapshot, &change.subject, &members);
        if let What::Removed(fate) = &mut change.what {
            // It has happened already.
            *fate = None;
        }
    }
    for pool in &snapshot.pools {
        let both = pool.members.iter().zip(&pool.settings.backends);
        let changed = both.filter(|(member, _)| member.state != AdminState::Enabled);
        let enabled = AdminState::Enabled;
        changes.0.extend(changed.map(|(member, settings)| {
            let change = state_changed(&pool.settings.name, member, enabled, member.state, Some(settings));
            let is_operators = discovered.sets_state(&pool.settings.name, &settings.name);
            diff::Change { origin: if is_operators { Origin::Api } else { change.origin }, ..change }
        }));
    }
    changes.0.extend(discovered.reweighted(&running).map(|(pool, backend, weight)| {
        let subject = Subject::Backend { pool: pool.name.clone(), name: backend.name.clone() };
        let (from, to) = (weight.to_string(), backend.weight.to_string());
        diff::Change {
            connections: connections(&snapshot, &subject, &members),
            subject,
            what: What::Changed(vec![Difference { key: "weight".to_owned(), from, to }]),
            origin: Origin::Api,
        }
    }));
    changes
}

pub(super) fn state_changed(
    pool: &str,
    member: &Member,
    from: AdminState,
    to: AdminState,
    settings: Option<&Backend>,
) -> diff::Change {
    let (from, to) = (from.word().to_owned(), to.word().to_owned());
    diff::Change {
        subject: Subject::Backend { pool: pool.to_owned(), name: member.backend.name.clone() },
        what: What::Changed(vec![Difference { key: "state".to_owned(), from, to }]),
        connections: member.backend.active().into(),
        origin: settings.map(|settings| settings.origin.clone()).unwrap_or_default(),
    }
}
