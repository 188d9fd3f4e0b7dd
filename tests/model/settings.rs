//! Every key of the file and every flag has a test. It starts the real process with two values and observes the
//! difference from outside. A setting that is parsed, checked and printed, and changes nothing, has no such test.
//!
//! The list names the tests. This file fails for a key or a flag without a row, and for a row without a key or a flag. It fails
//! for a test that does not exist, and for one whose text does not name the setting.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use tcplb::config::settings::{self, Listed};
use testkit::sources;

/// A key, as `section.key`, and the tests that show its effect.
const OF_KEYS: &[(&str, &[&str])] = &[
    ("global.workers", &["workers_is_the_number_of_event_loops"]),
    ("global.max_connections", &["max_connections_lets_further_clients_wait"]),
    ("global.shutdown_delay", &["during_the_shutdown_delay_clients_are_served_and_readiness_is_refused"]),
    ("global.shutdown_timeout", &["shutdown_timeout_is_how_long_a_drain_takes"]),
    ("global.dead_peer_timeout", &["dead_peer_timeout_sets_keepalive"]),
    ("global.socket_buffer", &["socket_buffer_caps_what_the_kernel_holds_for_clients_and_backends"]),
    ("global.relay", &["relay_moves_bytes_through_a_buffer_or_a_pipe"]),
    ("global.names", &["names_later_starts_beside_a_silent_name_server_and_required_does_not"]),
    ("global.admin", &["admin_opens_the_api"]),
    ("global.admin_token_file", &["admin_token_file_holds_the_only_token"]),
    ("global.admin_read_token_file", &["admin_read_token_file_permits_reading_and_no_change"]),
    ("global.user", &["started_as_root_every_thread_becomes_the_user_for_good"]),
    ("global.group", &["a_group_may_be_given_and_user_and_group_may_be_numbers"]),
    ("global.sandbox", &["sandbox_shuts_out_what_is_not_needed"]),
    ("global.upgrade", &["upgrade_off_keeps_no_second_process"]),
    ("global.take_over", &["take_over_is_where_a_process_with_the_flag_takes_over"]),
    (
        "global.keep_connections",
        &["keep_connections_lets_connections_outlast_a_restart", "without_keep_connections_a_stop_resets_what_is_open"],
    ),
    ("global.state_file", &["state_file_keeps_what_the_api_changes_over_a_restart"]),
    ("global.access_log", &["access_log_names_the_file_and_log_format_its_lines"]),
    ("global.log_format", &["access_log_names_the_file_and_log_format_its_lines"]),
    ("global.log_events", &["lines_of_an_open_connection_add_up_to_its_traffic"]),
    ("global.metrics_per_backend", &["without_series_per_backend_the_sums_of_each_pool_remain_and_never_fall"]),
    ("listener.name", &["a_listener_s_name_is_what_status_shows"]),
    (
        "listener.bind",
        &[
            "bind_decides_where_clients_connect",
            "every_address_of_bind_is_served",
            "a_backend_has_the_port_of_the_client_and_a_reload_binds_the_difference_of_a_range",
        ],
    ),
    ("listener.engine", &["engine_kernel_forwards_clients_of_both_families_to_backends_that_see_their_addresses"]),
    ("listener.pool", &["pool_decides_which_backends_serve_a_listener"]),
    ("listener.sniff_timeout", &["sniff_timeout_is_how_long_a_client_may_take_to_say_what_routes_ask_for"]),
    ("listener.silent_pool", &["silent_pool_takes_clients_that_say_nothing"]),
    ("listener.route.name", &["name_of_a_route_is_what_a_reload_calls_it"]),
    ("listener.route.protocol", &["protocol_is_what_the_first_bytes_are"]),
    ("listener.route.sni", &["sni_is_the_name_that_a_client_asks_for"]),
    ("listener.route.alpn", &["alpn_is_one_of_the_protocols_that_a_client_offers"]),
    ("listener.route.source", &["source_of_a_route_is_the_client_s_address_and_needs_no_byte"]),
    ("listener.route.pool", &["pool_of_a_route_is_where_its_clients_go"]),
    ("listener.accept_proxy", &["accept_proxy_takes_a_header_off"]),
    ("listener.trusted_proxies", &["trusted_proxies_may_send_a_header_and_others_may_not"]),
    (
        "listener.mode",
        &["mode_decides_which_users_may_connect_to_a_socket_file", "a_reload_changes_the_mode_of_a_socket_file"],
    ),
    ("listener.owner", &["owner_and_group_of_a_socket_file_go_by_name_or_number"]),
    ("listener.group", &["owner_and_group_of_a_socket_file_go_by_name_or_number"]),
    ("listener.allow", &["allow_and_deny_decide_by_prefix_wherever_they_stand"]),
    ("listener.deny", &["allow_and_deny_decide_by_prefix_wherever_they_stand"]),
    ("listener.allow_file", &["allow_and_deny_decide_by_prefix_wherever_they_stand"]),
    ("listener.deny_file", &["allow_and_deny_decide_by_prefix_wherever_they_stand"]),
    ("listener.max_connections", &["max_connections_of_a_listener_lets_further_clients_wait"]),
    ("listener.max_connections_per_source", &["max_connections_per_source_resets_further_clients"]),
    ("listener.connection_rate_per_source", &["connection_rate_per_source_resets_the_second_client"]),
    ("listener.limits", &["limits_enforces_or_only_counts"]),
    ("pool.name", &["a_pool_s_name_is_what_status_shows"]),
    ("pool.preset", &["preset_leads_clients_to_the_server_with_the_role"]),
    ("pool.algorithm", &["algorithm_decides_which_backend_is_next"]),
    ("pool.approximate", &["approximate_gives_a_backend_that_holds_many_connections_clearly_fewer_of_the_new_ones"]),
    ("pool.send_proxy", &["send_proxy_is_the_version_of_the_header"]),
    (
        "pool.source",
        &["with_source_client_backends_see_the_client_s_address", "two_source_addresses_reach_beyond_the_ports_of_one"],
    ),
    ("pool.connect_timeout", &["connect_timeout_ends_an_attempt"]),
    ("pool.connect_attempts", &["connect_attempts_is_how_many_backends_are_tried"]),
    ("pool.idle_timeout", &["idle_timeout_ends_a_silent_connection"]),
    ("pool.half_close_timeout", &["half_close_timeout_ends_what_one_side_has_finished"]),
    ("pool.max_lifetime", &["max_lifetime_ends_a_connection"]),
    ("pool.on_down", &["on_down_keeps_connections_or_resets_them"]),
    ("pool.on_remove", &["on_remove_keeps_connections_or_resets_them"]),
    ("pool.slow_start", &["slow_start_gives_a_backend_that_came_up_a_growing_share"]),
    ("pool.warm_connections", &["warm_connections_are_there_before_a_client_and_each_serves_one_client"]),
    ("pool.no_backend", &["no_backend_resets_clients_or_lets_them_wait"]),
    ("pool.abandoned", &["abandoned_serves_a_client_that_has_sent_its_fin_or_drops_it"]),
    ("pool.max_queue", &["max_queue_is_how_many_clients_wait_at_a_worker"]),
    ("pool.all_down", &["all_down_resets_clients_or_tries_all"]),
    ("pool.outlier_failures", &["outlier_failures_leaves_out_a_backend_that_resets"]),
    (
        "pool.health.kind",
        &["kind_decides_what_a_probe_does", "an_agent_gives_its_backend_a_weight_drains_it_and_marks_it_down"],
    ),
    ("pool.health.path", &["path_is_what_a_probe_asks_for"]),
    ("pool.health.host", &["host_is_the_header_of_a_probe"]),
    ("pool.health.expect_status", &["expect_status_decides_which_answers_are_good"]),
    ("pool.health.steps", &["steps_are_what_a_script_sends_and_expects"]),
    ("pool.health.port", &["a_health_port_is_where_all_probes_go"]),
    ("pool.health.initial", &["with_initial_down_no_client_reaches_a_backend_before_its_first_probe_has_passed"]),
    ("pool.health.interval", &["interval_is_the_time_between_probes"]),
    ("pool.health.timeout", &["timeout_is_how_long_a_probe_may_take"]),
    ("pool.health.rise", &["rise_is_how_many_successes_bring_a_backend_back"]),
    ("pool.health.fall", &["fall_is_how_many_failures_take_a_backend_out"]),
    ("pool.backend.name", &["a_backend_s_name_is_what_the_api_shows"]),
    (
        "pool.backend.address",
        &[
            "address_is_where_a_backend_is",
            "a_backend_has_the_port_of_the_client_and_a_reload_binds_the_difference_of_a_range",
        ],
    ),
    ("pool.backend.weight", &["weight_is_a_backend_s_share"]),
    ("pool.backend.max_connections", &["max_connections_of_a_backend_is_how_many_it_has_at_once"]),
    ("pool.backend.backup", &["backup_serves_only_when_no_primary_can"]),
    ("pool.backend.send_proxy", &["send_proxy_of_a_backend_overrides_the_pool_s"]),
    ("pool.discover.kind", &["what_a_source_finds_has_the_defaults_of_the_source"]),
    ("pool.discover.on_empty", &["on_empty_decides_whether_the_last_backend_leaves"]),
    ("pool.discover.weight", &["what_a_source_finds_has_the_defaults_of_the_source"]),
    ("pool.discover.max_connections", &["what_a_source_finds_has_the_defaults_of_the_source"]),
    ("pool.discover.backup", &["what_a_source_finds_has_the_defaults_of_the_source"]),
    ("pool.discover.consul.address", &["address_service_tag_and_datacenter_decide_which_instances_are_found"]),
    ("pool.discover.consul.service", &["address_service_tag_and_datacenter_decide_which_instances_are_found"]),
    ("pool.discover.consul.tag", &["address_service_tag_and_datacenter_decide_which_instances_are_found"]),
    ("pool.discover.consul.datacenter", &["address_service_tag_and_datacenter_decide_which_instances_are_found"]),
    ("pool.discover.consul.token_file", &["a_token_is_read_for_each_query_and_stands_in_no_error"]),
    ("pool.discover.consul.ca_file", &["consul_is_asked_by_https_if_the_ca_file_has_signed_for_it"]),
    ("pool.discover.dns.name", &["addresses_become_backends_and_answers_that_change_follow"]),
    ("pool.discover.dns.srv", &["services_become_backends_with_weights_and_backups"]),
    ("pool.discover.dns.resolvers", &["a_resolver_that_fails_is_replaced_by_the_next_one"]),
    ("pool.discover.dns.min_interval", &["min_interval_is_the_shortest_time_between_two_look_ups"]),
    ("pool.discover.dns.max_interval", &["max_interval_is_the_longest_time_between_two_look_ups"]),
    ("pool.discover.etcd.endpoints", &["keys_become_backends_and_changes_follow"]),
    ("pool.discover.etcd.prefix", &["keys_become_backends_and_changes_follow"]),
    ("pool.discover.etcd.user", &["a_user_reads_its_prefix_and_a_lost_token_is_renewed"]),
    ("pool.discover.etcd.password_file", &["a_user_reads_its_prefix_and_a_lost_token_is_renewed"]),
    ("pool.discover.etcd.ca_file", &["tls_is_spoken_and_checked_on_both_sides"]),
    ("pool.discover.etcd.cert_file", &["tls_is_spoken_and_checked_on_both_sides"]),
    ("pool.discover.etcd.key_file", &["tls_is_spoken_and_checked_on_both_sides"]),
    ("pool.discover.file.path", &["every_way_to_replace_a_file_is_seen"]),
    ("pool.discover.kubernetes.namespace", &["api_namespace_service_and_port_decide_which_endpoints_are_found"]),
    ("pool.discover.kubernetes.service", &["api_namespace_service_and_port_decide_which_endpoints_are_found"]),
    ("pool.discover.kubernetes.port", &["api_namespace_service_and_port_decide_which_endpoints_are_found"]),
    ("pool.discover.kubernetes.api", &["api_namespace_service_and_port_decide_which_endpoints_are_found"]),
    ("pool.discover.kubernetes.token_file", &["a_token_that_is_renewed_is_read_again"]),
    ("pool.discover.kubernetes.ca_file", &["the_api_is_asked_by_https_if_the_ca_file_has_signed_for_it"]),
];

/// A flag of the balancer, and the same.
const OF_FLAGS: &[(&str, &[&str])] = &[
    ("--listen", &["bind_decides_where_clients_connect"]),
    ("--backend", &["three_backends_take_exact_turns", "weight_is_a_backend_s_share"]),
    ("--config", &["a_config_file_is_checked_and_run"]),
    ("--algorithm", &["algorithm_decides_which_backend_is_next"]),
    ("--send-proxy", &["send_proxy_is_the_version_of_the_header"]),
    ("--accept-proxy", &["accept_proxy_takes_a_header_off"]),
    ("--health", &["kind_decides_what_a_probe_does"]),
    ("--health-path", &["path_is_what_a_probe_asks_for"]),
    ("--health-interval", &["interval_is_the_time_between_probes"]),
    ("--health-timeout", &["timeout_is_how_long_a_probe_may_take"]),
    ("--health-rise", &["rise_is_how_many_successes_bring_a_backend_back"]),
    ("--health-fall", &["fall_is_how_many_failures_take_a_backend_out"]),
    ("--connect-timeout", &["connect_timeout_ends_an_attempt"]),
    ("--idle-timeout", &["idle_timeout_ends_a_silent_connection"]),
    ("--shutdown-timeout", &["shutdown_timeout_is_how_long_a_drain_takes"]),
    ("--max-connections", &["max_connections_lets_further_clients_wait"]),
    ("--workers", &["workers_is_the_number_of_event_loops"]),
    ("--relay", &["relay_moves_bytes_through_a_buffer_or_a_pipe"]),
    ("--admin", &["admin_opens_the_api"]),
    ("--admin-token-file", &["admin_token_file_holds_the_only_token"]),
    ("--user", &["a_group_may_be_given_and_user_and_group_may_be_numbers"]),
    ("--group", &["a_group_may_be_given_and_user_and_group_may_be_numbers"]),
    ("--sandbox", &["sandbox_shuts_out_what_is_not_needed"]),
    ("--upgrade", &["upgrade_off_keeps_no_second_process"]),
    ("--take-over", &["take_over_is_where_a_process_with_the_flag_takes_over"]),
    ("--access-log", &["access_log_names_the_file_and_log_format_its_lines"]),
    ("--log-format", &["access_log_names_the_file_and_log_format_its_lines"]),
    ("--log-level", &["log_level_decides_what_is_logged"]),
];

/// The body of every function that a text marks as a test, by name.
fn tests(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[test]" {
            continue;
        }
        // Other attributes may follow.
        let Some(head) = lines.find(|line| line.trim().starts_with("fn ")) else { break };
        let indent = &head[..head.len() - head.trim_start().len()];
        let end = format!("{indent}}}");
        let name = head.trim().trim_start_matches("fn ").split('(').next().unwrap_or_default();
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != end).collect();
        found.push((name.to_owned(), body.join("\n")));
    }
    found
}

fn all_tests() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let texts = sources(&root).into_iter().map(|path| fs::read_to_string(path).expect("a text"));
    texts.flat_map(|text| tests(&text)).collect()
}

/// What is wrong with the rows for these settings; `words` are what a test's text may call a setting.
fn mistakes(settings: &[String], rows: &[(&str, &[&str])], words: impl Fn(&str) -> Vec<String>) -> Vec<String> {
    let there = all_tests();
    let mut wrong = Vec::new();
    for setting in settings.iter().filter(|setting| !rows.iter().any(|(row, _)| row == setting)) {
        wrong.push(format!("{setting} has no row: which test shows its effect?"));
    }
    for (row, names) in rows {
        if !settings.iter().any(|setting| setting == row) {
            wrong.push(format!("{row} is no setting"));
        }
        if names.is_empty() {
            wrong.push(format!("{row} names no test"));
        }
        for name in *names {
            match there.get(*name) {
                None => wrong.push(format!("{row}: there is no test called {name}")),
                Some(body) if !words(row).iter().any(|word| body.contains(word.as_str())) => {
                    wrong.push(format!("{row}: {name} does not mention it"));
                }
                Some(_) => {}
            }
        }
    }
    wrong
}

#[test]
fn every_key_has_a_test_that_shows_its_effect() {
    let sections = settings::sections();
    let of = |section: &Listed| -> Vec<String> {
        section.rows.iter().map(|row| format!("{}.{}", section.name, row.about.key)).collect()
    };
    let keys: Vec<String> = sections.iter().flat_map(of).collect();
    assert!(keys.len() > 50, "only {} keys were found", keys.len());
    let last = |row: &str| vec![row.rsplit('.').next().unwrap_or(row).to_owned()];
    let wrong = mistakes(&keys, OF_KEYS, last);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Code without comments, texts and tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.map(|line| line.split('"').step_by(2).collect::<Vec<_>>().join(" ") + "\n").collect()
}

/// The field with its default, the row of the table, and the use. Everything else about a setting comes from the row.
#[test]
fn a_setting_is_declared_once_and_used_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = sources(&root.join("src"));
    let places: Vec<String> = sources
        .iter()
        .map(|path| path.strip_prefix(root).expect("ours"))
        .filter(|path| !path.iter().any(|part| part == "tests" || part == "tests.rs"))
        .filter(|path| code(&fs::read_to_string(root.join(path)).expect("a text")).contains("half_close_timeout"))
        .map(|path| path.display().to_string())
        .collect();
    assert_eq!(places.len(), 3, "{places:?}");
    assert!(places.contains(&"src/config/model.rs".to_owned()), "{places:?}");
    assert!(places.contains(&"src/config/settings/pool.rs".to_owned()), "{places:?}");
    assert!(places.iter().any(|place| place.starts_with("src/session/")), "{places:?}");
}

#[test]
fn every_flag_has_a_test_that_shows_its_effect() {
    let help = Command::new(env!("CARGO_BIN_EXE_tcplb")).arg("-h").output().expect("it runs");
    let help = String::from_utf8(help.stdout).expect("text");
    // "  -l, --listen <ADDR>  Where clients connect", once each.
    let flag = |line: &str| {
        let line = line.strip_prefix("  ")?.trim_start();
        let line = line.split_once(", --").map_or(line, |(_, rest)| rest).trim_start_matches("--");
        let name: String = line.chars().take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '-').collect();
        Some(format!("--{name}"))
    };
    // Wrapped descriptions stand further right, and may begin with an alias.
    let is_flag = |line: &&str| line.starts_with("  -") || line.starts_with("      --");
    let mut flags: Vec<String> = help.lines().filter(is_flag).filter_map(flag).collect();
    flags.retain(|flag| flag != "--help" && flag != "--version");
    assert!(flags.len() > 20, "only {flags:?} were found in\n{help}");
    let wrong = mistakes(&flags, OF_FLAGS, |flag| match flag {
        // The suite's own way to write them.
        "--listen" => vec![".listen(".to_owned()],
        "--backend" => vec![".backend(".to_owned(), "Tcplb::over(".to_owned(), "each(".to_owned()],
        "--health-interval" => vec!["\"-t\"".to_owned()],
        _ => vec![format!("\"{flag}\"")],
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_row_is_held_to_its_setting_and_its_tests() {
    let settings = ["global.workers".to_owned(), "global.new".to_owned()];
    let rows: &[(&str, &[&str])] =
        &[("global.workers", &["no_such_test", "on_down_keeps_connections_or_resets_them"]), ("global.old", &[])];
    let wrong = mistakes(&settings, rows, |row| vec![row.trim_start_matches("global.").to_owned()]).join("\n");
    for want in [
        "global.new has no row",
        "global.workers: there is no test called no_such_test",
        "global.workers: on_down_keeps_connections_or_resets_them does not mention it",
        "global.old is no setting",
        "global.old names no test",
    ] {
        assert!(wrong.contains(want), "{want}: {wrong}");
    }
}
