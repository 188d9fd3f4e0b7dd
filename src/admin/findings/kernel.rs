//! What an operator should know of the listeners whose connections the kernel carries.

use super::super::api::{Finding, KernelView, ProcessView};
use super::{critical, near, warning};

/// The findings about the rules, about the kernel's table of connections, and about what the system lacks.
pub fn all(process: &ProcessView) -> Vec<Finding> {
    let Some(kernel) = &process.kernel else { return Vec::new() };
    let problem = kernel.problem.as_ref().map(|why| critical(format!("the kernel keeps its last rules: {why}")));
    let lacks = kernel.lacks.iter().cloned().map(warning);
    problem.into_iter().chain(fill(kernel)).chain(lacks).collect()
}

fn fill(kernel: &KernelView) -> Option<Finding> {
    let KernelView { table_entries, table_max, .. } = *kernel;
    let near = near(table_entries, Some(table_max))?;
    let text =
        format!("the kernel tracks {table_entries} connections: {near}, the limit (net.netfilter.nf_conntrack_max)");
    Some(if table_entries >= table_max { critical(text) } else { warning(text) })
}

#[cfg(test)]
mod tests {
    use super::super::super::api::{Level, Status};
    use super::super::judge;
    use super::*;

    fn found(kernel: KernelView) -> Vec<(Level, String)> {
        let process = ProcessView { kernel: Some(kernel), ..ProcessView::default() };
        let mut status = Status { process, ..Status::default() };
        judge(&mut status);
        status.findings.into_iter().map(|finding| (finding.level, finding.text)).collect()
    }

    #[test]
    fn a_table_that_fills_up_and_rules_that_are_old_are_found() {
        let half = KernelView { table_entries: 50, table_max: 100, ..KernelView::default() };
        assert_eq!(found(half.clone()), []);
        let text = "the kernel tracks 81 connections: 81 % of 100, the limit (net.netfilter.nf_conntrack_max)";
        assert_eq!(found(KernelView { table_entries: 81, ..half.clone() }), [(Level::Warning, text.to_owned())]);
        assert_eq!(found(KernelView { table_entries: 100, ..half.clone() })[0].0, Level::Critical);
        let (problem, lacks) = (Some("nft: no".to_owned()), vec!["a sentence".to_owned()]);
        let text = "the kernel keeps its last rules: nft: no".to_owned();
        let both = [(Level::Critical, text), (Level::Warning, "a sentence".to_owned())];
        assert_eq!(found(KernelView { problem, lacks, ..half }), both);
    }
}
