//! Clocks, pauses and stalls find what is wrong with a lease: the service of the examples.

use sim_runtime::engine::Until;

#[path = "../examples/lease.rs"]
#[expect(dead_code, reason = "the example's main is not called here")]
mod lease;

use lease::Care;

#[test]
fn a_holder_with_a_margin_keeps_the_promise() {
    lease::simulation(Care::Careful).sweep(0, Until::Seeds(30)).assert_clean();
}

#[test]
fn clocks_that_do_not_agree_find_a_holder_without_a_margin() {
    assert_eq!(first(Care::CountsItAll), "one-holder");
}

#[test]
fn a_stall_between_the_check_and_the_answer_is_found() {
    assert_eq!(first(Care::LooksOnce), "one-holder");
}

/// What the first seed that fails violates.
fn first(care: Care) -> String {
    let sweep = lease::simulation(care).sweep(0, Until::Seeds(50));
    sweep.failed.first().expect("50 seeds suffice").report.violations[0].property.clone()
}
