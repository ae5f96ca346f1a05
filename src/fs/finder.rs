//! Work that has to wait for the device, on a thread that serves no request: it is there as long as there is something to
//! do, one thing after the other.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::types::Errno;

/// What is to be done; told if there is no thread for it.
type Job = Box<dyn FnOnce(Result<(), Errno>) + Send>;

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    runs: bool,
}

/// Who does it.
#[derive(Clone, Default)]
pub struct Finder {
    state: Arc<Mutex<State>>,
}

impl Finder {
    /// Do it when what came before is done. Who asks has a request that waits for it: there are as many jobs as processes.
    pub fn ask(&self, job: impl FnOnce(Result<(), Errno>) + Send + 'static) {
        let mut state = self.state.lock();
        state.waiting.push_back(Box::new(job));
        if std::mem::replace(&mut state.runs, true) {
            return;
        }
        drop(state);
        let me = self.clone();
        if let Err(error) = std::thread::Builder::new().name("finder".to_owned()).spawn(move || me.work(Ok(()))) {
            log::error!("no thread that looks for what is asked for: {error}");
            self.work(Err(Errno::ENOMEM));
        }
    }

    fn work(&self, how: Result<(), Errno>) {
        loop {
            let mut state = self.state.lock();
            let Some(job) = state.waiting.pop_front() else {
                state.runs = false;
                return;
            };
            drop(state);
            job(how);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn everything_asked_for_is_done_in_its_order_and_nobody_waits() {
        let (finder, (sender, receiver)) = (Finder::default(), mpsc::channel());
        let (go, gone) = mpsc::channel();
        finder.ask(move |_| gone.recv().unwrap());
        for n in 0..100 {
            let sender = sender.clone();
            finder.ask(move |how| sender.send((n, how)).unwrap());
        }
        assert!(receiver.try_recv().is_err());
        go.send(()).unwrap();
        for n in 0..100 {
            assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok((n, Ok(()))));
        }
        let again = sender.clone();
        finder.ask(move |how| again.send((7, how)).unwrap());
        assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok((7, Ok(()))));
    }
}
