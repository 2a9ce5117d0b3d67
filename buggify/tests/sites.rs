//! Sites are registered whether or not they run, and a visit reaches the simulator of its own thread only.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Mutex;

use buggify::{Kind, Simulator, Site};

#[allow(dead_code)]
fn never_called() {
    buggify::assert_reachable!("code that never runs is registered");
    if buggify::buggify!(at "a fault that never runs", 0.05) {}
}

#[derive(Default)]
struct Recorder {
    visits: RefCell<Vec<(String, bool, Option<String>)>>,
}

impl Simulator for Recorder {
    fn visit(&self, site: &'static Site, holds: bool, details: Option<String>) {
        self.visits.borrow_mut().push((site.message.to_owned(), holds, details));
    }

    fn fire(&self, site: &'static Site, probability: Option<f64>) -> bool {
        self.visits.borrow_mut().push((site.kind.name().to_owned(), probability == Some(0.5), None));
        true
    }
}

fn visit_all(holds: bool) -> bool {
    buggify::assert_always!(holds, "always", "expected {} of {}", 1, 2);
    buggify::assert_always!(holds, "always with names", answer = 42);
    buggify::assert_always!(holds, "always with values", holds);
    buggify::assert_sometimes!(holds, "sometimes");
    buggify::assert_sometimes!(holds, "sometimes in power", owed_by = "power, disk");
    if !holds {
        buggify::assert_unreachable!("unreachable");
    }
    buggify::buggify!(0.5)
}

/// Tests that replace the process-wide handler, or rely on the default one, take turns.
static HANDLER: Mutex<()> = Mutex::new(());

#[test]
fn dead_code_is_in_the_catalogue() {
    let messages: Vec<_> = buggify::catalogue().iter().map(|site| site.message).collect();
    assert!(messages.contains(&"code that never runs is registered"));
    assert!(messages.contains(&"a fault that never runs"));
    for (index, site) in buggify::catalogue().iter().enumerate() {
        assert_eq!(buggify::site_index(site), index);
    }
}

#[test]
fn the_owing_specs_are_a_list() {
    let site = buggify::catalogue().iter().find(|site| site.message == "sometimes in power").expect("registered");
    assert_eq!(site.kind, Kind::Sometimes);
    assert!(site.is_owed_by("power") && site.is_owed_by("disk") && !site.is_owed_by("default"));
}

#[test]
fn visits_reach_the_simulator_of_the_thread() {
    let recorder = Rc::new(Recorder::default());
    let installed = buggify::install(recorder.clone());
    assert!(buggify::is_simulating());
    assert!(visit_all(false));
    assert!(!std::thread::spawn(buggify::is_simulating).join().expect("the thread does not panic"));
    drop(installed);
    assert!(!buggify::is_simulating());

    let visits = recorder.visits.borrow();
    let rendered: Vec<_> =
        visits.iter().map(|(message, holds, details)| (message.as_str(), *holds, details.as_deref())).collect();
    assert_eq!(
        rendered,
        [
            ("always", false, Some("expected 1 of 2")),
            ("always with names", false, Some("answer=42")),
            ("always with values", false, Some("holds=false")),
            ("sometimes", false, None),
            ("sometimes in power", false, None),
            ("unreachable", false, Some("")),
            ("buggify", true, None),
        ]
    );
}

#[test]
fn outside_a_violation_is_reported_and_no_fault_fires() {
    let _turn = HANDLER.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());
    buggify::set_violation_handler(|site, details| {
        SEEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(format!("{} [{details}]", site.message));
    });
    assert!(!visit_all(true));
    assert!(SEEN.lock().expect("not poisoned").is_empty());
    assert!(!visit_all(false));
    let seen = SEEN.lock().expect("not poisoned").clone();
    assert_eq!(
        seen,
        [
            "always [expected 1 of 2]",
            "always with names [answer=42]",
            "always with values [holds=false]",
            "unreachable []"
        ]
    );
}
