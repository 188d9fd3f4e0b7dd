//! What changes in the routes of a listener.
//!
//! Equal routes at the begin and at the end of both lists are the same. So a route that is put in front changes nothing but the
//! numbers of the others. Between these, routes with the same label are the same.

use super::{Difference, Subject, What, differing};
use crate::config::model::{Listener, Route};
use crate::config::settings::{ROUTE, Reload};
use std::collections::HashMap;

/// Labels that a message lists.
const LISTED: usize = 20;

/// The order of the routes if that changes, and what becomes of each route.
pub fn between(old: &Listener, new: &Listener) -> (Option<Difference>, Vec<(Subject, What)>) {
    let first = old.routes.iter().zip(&new.routes).take_while(|(old, new)| old == new).count();
    let behind = |listener: &'_ Listener| listener.routes.len() - first;
    let backwards = old.routes.iter().rev().take(behind(old)).zip(new.routes.iter().rev().take(behind(new)));
    let last = backwards.take_while(|(old, new)| old == new).count();
    let (olds, news) = (Between::of(old, first, last), Between::of(new, first, last));
    let subject = |label: &String| Subject::Route { listener: new.name.clone(), label: label.clone() };
    let mut changes = Vec::new();
    for (label, route) in &news.routes {
        changes.push((
            subject(label),
            match olds.route(label) {
                Some(before) => What::Changed(differing(&ROUTE, Reload::Live, before, route)),
                None => What::Added,
            },
        ));
    }
    let gone = olds.routes.iter().filter(|(label, _)| news.route(label).is_none());
    changes.extend(gone.map(|(label, _)| (subject(label), What::Removed(None))));
    let (from, to) = (olds.also_in(&news), news.also_in(&olds));
    let order = (from != to).then(|| Difference { key: "routes".to_owned(), from: listed(&from), to: listed(&to) });
    (order, changes)
}

/// The routes of a listener that may differ, in their order and by label.
struct Between<'a> {
    routes: Vec<(String, &'a Route)>,
    places: HashMap<String, usize>,
}

impl<'a> Between<'a> {
    fn of(listener: &'a Listener, first: usize, last: usize) -> Between<'a> {
        let end = listener.routes.len() - last;
        let routes: Vec<_> = listener.labelled_routes().take(end).skip(first).collect();
        let places = routes.iter().enumerate().map(|(place, (label, _))| (label.clone(), place)).collect();
        Between { routes, places }
    }

    fn route(&self, label: &str) -> Option<&'a Route> {
        Some(self.routes.get(*self.places.get(label)?)?.1)
    }

    /// The labels that the other one has too.
    fn also_in(&self, other: &Between<'_>) -> Vec<&str> {
        let labels = self.routes.iter().map(|(label, _)| label.as_str());
        labels.filter(|label| other.places.contains_key(*label)).collect()
    }
}

fn listed(labels: &[&str]) -> String {
    let more = if labels.len() > LISTED { ", …" } else { "" };
    format!("{}{more}", labels[..labels.len().min(LISTED)].join(", "))
}
