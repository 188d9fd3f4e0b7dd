//! The options of a `server` line, on top of those of `default-server`.

use super::tables::SERVER;
use super::value;
use super::words::Line;
use crate::import::keywords::find;
use crate::import::note::Notes;
use std::time::Duration;

/// What the options say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub weight: Option<u64>,
    pub max_connections: Option<u64>,
    pub max_queue: Option<u64>,
    pub backup: bool,
    pub disabled: bool,
    pub check: bool,
    pub agent: bool,
    pub agent_port: Option<u64>,
    pub agent_inter: Option<Duration>,
    pub port: Option<u64>,
    pub inter: Option<Duration>,
    pub rise: Option<u64>,
    pub fall: Option<u64>,
    pub slow_start: Option<Duration>,
    pub resets: bool,
    pub observes: bool,
    pub error_limit: Option<u64>,
    pub send_proxy: Option<&'static str>,
    pub resolvers: Option<String>,
    /// `client`, or an address; empty is the kernel's choice.
    pub source: Option<String>,
}

impl Options {
    /// Reads the options of a line, from this word on.
    pub fn read(&mut self, line: &Line, mut at: usize, notes: &mut Notes) {
        while at < line.words.len() {
            let name = line.word(at);
            let Some(option) = find(SERVER, name) else {
                notes.refused(line.number, format!("{name}: HAProxy 2.6 has no such option of a server"));
                return;
            };
            let value = if option.values > 0 { line.word(at + 1) } else { "" };
            at += 1 + option.values;
            if name == "source" {
                let how = Some(line.word(at)).filter(|how| matches!(*how, "usesrc" | "interface"));
                match value::source(value, how.map(|how| (how, line.word(at + 1)))) {
                    Ok(source) => self.source = Some(source),
                    Err(why) => notes.refused(line.number, format!("source: {why}")),
                }
                if how.is_some() && line.word(at + 1) == "client" {
                    notes.changed(line.number, "source: the kernel picks the port".to_owned());
                }
                at += if how.is_some() { 2 } else { 0 };
            }
            if name == "resolvers" {
                notes.changed(line.number, format!("resolvers {value}: {}", option.why));
            }
            if option.is_lost(line.number, notes) {
                continue;
            }
            if let Err(expected) = self.take(name, value) {
                notes.refused(line.number, format!("{name}: expected {expected}, got `{value}`"));
            }
        }
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        let number = || value.parse::<u64>().map_err(|_| "a number");
        let time = || value::time(value).filter(|time| !time.is_zero()).ok_or("a time");
        match name {
            "weight" => self.weight = Some(number()?),
            "maxconn" => self.max_connections = Some(number()?).filter(|number| *number > 0),
            "maxqueue" => self.max_queue = Some(number()?).filter(|number| *number > 0),
            "backup" => self.backup = true,
            "no-backup" => self.backup = false,
            "disabled" => self.disabled = true,
            "enabled" => self.disabled = false,
            "check" => self.check = true,
            "no-check" => self.check = false,
            "agent-check" => self.agent = true,
            "no-agent-check" => self.agent = false,
            "agent-port" => self.agent_port = Some(number()?),
            "agent-inter" => self.agent_inter = Some(time()?),
            "port" => self.port = Some(number()?).filter(|number| *number > 0),
            "inter" => self.inter = Some(time()?),
            "rise" => self.rise = Some(number()?),
            "fall" => self.fall = Some(number()?),
            "slowstart" => self.slow_start = Some(time()?),
            "error-limit" => self.error_limit = Some(number()?),
            "observe" => match value {
                "layer4" => self.observes = true,
                _ => return Err("layer4"),
            },
            "on-marked-down" => match value {
                "shutdown-sessions" => self.resets = true,
                _ => return Err("shutdown-sessions"),
            },
            "send-proxy" => self.send_proxy = Some("v1"),
            "send-proxy-v2" | "send-proxy-v2-ssl" | "send-proxy-v2-ssl-cn" => self.send_proxy = Some("v2"),
            "no-send-proxy" | "no-send-proxy-v2" | "no-send-proxy-v2-ssl" | "no-send-proxy-v2-ssl-cn" => {
                self.send_proxy = None;
            }
            "resolvers" => self.resolvers = Some(value.to_owned()),
            // What tcplb does by default.
            _ => {}
        }
        Ok(())
    }

    /// The weight that counts.
    pub fn weight(&self) -> Option<u64> {
        if self.disabled { Some(0) } else { self.weight }
    }
}
