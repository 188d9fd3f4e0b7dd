//! A thousand backends on the page.

use crate::page::{DESK, open};
use std::net::Ipv4Addr;
use testkit::{Admin, At, ConfigFile, Flood, Page, Server, heavy, peers};

const MANY: usize = 1000;

/// The seconds that scripts, styles and layout took until the page has drawn `polls` more states, by state.
fn cost(page: &Page, polls: u32) -> f64 {
    let figures = ["ScriptDuration", "LayoutDuration", "RecalcStyleDuration"];
    let all = || figures.iter().map(|name| page.figure(name)).sum::<f64>();
    page.value("window.drawn = 0; drawPools = ((draw) => (status) => { draw(status); drawn += 1; })(drawPools); null");
    let before = all();
    page.wait("further states are drawn", &format!("drawn >= {polls}"));
    (all() - before) / f64::from(polls)
}

#[test]
fn a_thousand_backends_stay_fluent_under_traffic() {
    let _alone = heavy();
    let server = Server::start_on(Ipv4Addr::UNSPECIFIED, peers::echo);
    let addresses: Vec<At> = (0..MANY)
        .map(|number| {
            let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
            At::Tcp((Ipv4Addr::new(127, 2, high, low), server.at().port()).into())
        })
        .collect();
    let tcplb = ConfigFile::over(&addresses).global("admin = \"127.0.0.1:0\"").start();
    let admin = Admin::of(&tcplb);
    let Some(page) = open(admin, "", DESK) else { return };
    let flood = Flood::at(tcplb.at());
    flood.rises(100);
    page.wait("the first are shown", "document.querySelectorAll('#pools tr.backend').length === 25");
    let few = cost(&page, 3);
    page.click("#pools tr.more button");
    page.wait("all are shown", "document.querySelectorAll('#pools tr.backend').length === 1000");
    let many = cost(&page, 3);
    println!("{:.1} ms a state with 25 rows, {:.1} ms with {MANY}", few * 1e3, many * 1e3);
    // A sixth of the second between two states, on a machine that does other things.
    assert!(few.max(many) < 0.15, "{few} s, {many} s");
    page.value("go({ find: 'b77' })");
    page.wait("the filter holds", "document.querySelectorAll('#pools tr.backend').length === 11");
}
