//! The thread that simulates, told what to do by the thread of the test.
//!
//! `HashMap` keys and everything a simulation installs belong to a thread, so a run has one of its own. It waits for the
//! next command outside the world: virtual time stands still meanwhile, and whatever the test does in real time between
//! two commands is not part of the run.

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use sim_runtime::isolate;

enum Command<S> {
    Do(Box<dyn FnOnce(&S) + Send>),
    /// The last one.
    Finish(Box<dyn FnOnce(S) + Send>),
}

/// A `S` on a thread of its own.
pub(super) struct Thread<S: 'static> {
    commands: Option<Sender<Command<S>>>,
    thread: Option<JoinHandle<()>>,
}

impl<S: 'static> Thread<S> {
    /// `begin` makes the `S` there; `abandon` is what becomes of it when nobody finishes it.
    pub fn new(begin: impl FnOnce() -> S + Send + 'static, abandon: fn(S)) -> Thread<S> {
        let (commands, queue): (Sender<Command<S>>, Receiver<Command<S>>) = channel();
        let thread = isolate::on_own_thread(move || {
            let state = begin();
            loop {
                match queue.recv() {
                    Ok(Command::Do(command)) => command(&state),
                    Ok(Command::Finish(command)) => return command(state),
                    Err(_) => return abandon(state),
                }
            }
        });
        Thread { commands: Some(commands), thread: Some(thread) }
    }

    /// Does something there and waits for the result. A panic there is one here.
    pub fn ask<T: Send + 'static>(&mut self, command: impl FnOnce(&S) -> T + Send + 'static) -> T {
        let (reply, answer) = channel();
        self.send(Command::Do(Box::new(move |state| answered(&reply, command(state)))));
        self.receive(&answer)
    }

    /// Does the last thing there.
    pub fn finish<T: Send + 'static>(mut self, command: impl FnOnce(S) -> T + Send + 'static) -> T {
        let (reply, answer) = channel();
        self.send(Command::Finish(Box::new(move |state| answered(&reply, command(state)))));
        self.receive(&answer)
    }

    /// If the thread is gone, so is the sender of the answer.
    fn send(&self, command: Command<S>) {
        if let Some(commands) = &self.commands {
            let _ = commands.send(command);
        }
    }

    fn receive<T>(&mut self, answer: &Receiver<T>) -> T {
        answer.recv().unwrap_or_else(|_| {
            self.join();
            panic!("the simulation has failed before");
        })
    }

    fn join(&mut self) {
        self.commands = None;
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            resume_unwind(panic);
        }
    }
}

impl<S: 'static> Drop for Thread<S> {
    fn drop(&mut self) {
        self.join();
    }
}

/// The thread of the test waits for it, unless it is gone too.
fn answered<T>(reply: &Sender<T>, value: T) {
    let _ = reply.send(value);
}
