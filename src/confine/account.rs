//! The account that the process changes to: a user and its groups, looked up once at the start.

use crate::config::model::SocketFile;
use nix::unistd::{self, Gid, Group, Uid, User};
use rustix::thread::set_keep_capabilities;
use std::ffi::CString;
use std::fmt;

/// A user other than root.
#[derive(Debug)]
pub struct Account {
    user: Uid,
    group: Gid,
    /// The user's name in the system's list. A user without a name has no supplementary groups.
    name: Option<CString>,
}

impl Account {
    /// Looks up a user and a group by name or number. A number need not be in the system's list, since containers often
    /// have none.
    pub fn find(user: &str, group: Option<&str>) -> Result<Account, String> {
        let cannot = |what: &str, error: nix::Error| format!("{what}: can't look it up: {error}");
        let by_name = User::from_name(user).map_err(|error| cannot("user", error))?;
        let found = match (by_name, user.parse()) {
            (None, Ok(number)) => User::from_uid(Uid::from_raw(number)).map_err(|error| cannot("user", error))?,
            (found, _) => found,
        };
        let uid = match (&found, user.parse()) {
            (Some(found), _) => found.uid,
            (None, Ok(number)) => Uid::from_raw(number),
            (None, Err(_)) => return Err(format!("user: there is no user called `{user}` on this machine")),
        };
        if uid.is_root() {
            return Err(format!("user: expected a user other than root, got `{user}`; leave it out to stay root"));
        }
        let gid = match (group, &found) {
            (Some(group), _) => find_group(group)?,
            (None, Some(found)) => found.gid,
            (None, None) => {
                return Err(format!(
                    "user: this machine has no user with the number {user}, so a group is needed, too"
                ));
            }
        };
        let name = found.and_then(|found| CString::new(found.name).ok());
        Ok(Account { user: uid, group: gid, name })
    }

    /// Whether the process runs as this account already.
    pub fn is_ours(&self) -> bool {
        unistd::geteuid() == self.user && unistd::getuid() == self.user && unistd::getegid() == self.group
    }

    /// The user and group ids.
    pub fn ids(&self) -> (rustix::fs::Uid, rustix::fs::Gid) {
        (rustix::fs::Uid::from_raw(self.user.as_raw()), rustix::fs::Gid::from_raw(self.group.as_raw()))
    }

    /// Changes the process's user and groups, with no way back. These calls of the C library reach every thread.
    /// Permitted capabilities are kept, for [`super::shed`] to reduce.
    pub fn become_it(&self) -> nix::Result<()> {
        let of_rustix = |error: rustix::io::Errno| nix::Error::from_raw(error.raw_os_error());
        set_keep_capabilities(true).map_err(of_rustix)?;
        match &self.name {
            Some(name) => unistd::initgroups(name, self.group)?,
            None => unistd::setgroups(&[self.group])?,
        }
        unistd::setresgid(self.group, self.group, self.group)?;
        unistd::setresuid(self.user, self.user, self.user)?;
        set_keep_capabilities(false).map_err(of_rustix)
    }
}

/// The owner and group of a socket file, as numbers. Fails if a name is unknown.
pub fn owners(file: &SocketFile) -> Result<(Option<u32>, Option<u32>), String> {
    let owner = |owner: &String| {
        let found = User::from_name(owner).map_err(|error| format!("owner: can't look it up: {error}"))?;
        match (found, owner.parse()) {
            (Some(found), _) => Ok(found.uid.as_raw()),
            (None, Ok(number)) => Ok(number),
            (None, Err(_)) => Err(format!("owner: there is no user called `{owner}` on this machine")),
        }
    };
    let group = file.group.as_deref().map(|group| find_group(group).map(Gid::as_raw)).transpose()?;
    Ok((file.owner.as_ref().map(owner).transpose()?, group))
}

fn find_group(group: &str) -> Result<Gid, String> {
    let found = Group::from_name(group).map_err(|error| format!("group: can't look it up: {error}"))?;
    match (found, group.parse()) {
        (Some(found), _) => Ok(found.gid),
        (None, Ok(number)) => Ok(Gid::from_raw(number)),
        (None, Err(_)) => Err(format!("group: there is no group called `{group}` on this machine")),
    }
}

impl fmt::Display for Account {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&named(self.user, self.group))
    }
}

/// The process's own user and group, for messages.
pub fn own() -> String {
    named(unistd::geteuid(), unistd::getegid())
}

/// Text like `nobody:nogroup`, with numbers where there is no name.
fn named(user: Uid, group: Gid) -> String {
    let user = User::from_uid(user).ok().flatten().map_or_else(|| user.to_string(), |user| user.name);
    let group = Group::from_gid(group).ok().flatten().map_or_else(|| group.to_string(), |group| group.name);
    format!("{user}:{group}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found_by_name_or_number() {
        // Root is the one user that every system has; it is refused, but its group will do.
        let refused = Account::find("root", None).unwrap_err();
        assert!(refused.contains("other than root") && refused.contains("`root`"), "{refused}");
        assert!(Account::find("0", Some("0")).unwrap_err().contains("`0`"));
        let account = Account::find("4000000001", Some("root")).unwrap();
        assert_eq!((account.user.as_raw(), account.group.as_raw(), account.name), (4_000_000_001, 0, None));
        let account = Account::find("4000000001", Some("4000000002")).unwrap();
        assert_eq!(account.to_string(), "4000000001:4000000002");
        assert!(!account.is_ours());
    }

    #[test]
    fn unknown_users_and_groups_are_errors() {
        let message = Account::find("nobdy-at-all", None).unwrap_err();
        assert!(message.contains("user: there is no user called `nobdy-at-all`"), "{message}");
        let message = Account::find("4000000001", Some("no-such-group")).unwrap_err();
        assert!(message.contains("group: there is no group called `no-such-group`"), "{message}");
        let message = Account::find("4000000001", None).unwrap_err();
        assert!(message.contains("a group is needed"), "{message}");
    }
}
