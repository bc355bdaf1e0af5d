//! Time and other people, as the tests want them.
//!
//! Every call lets others run before and after it takes effect, so that twins interleave; how often
//! is drawn from a seed, so that a failing order can be had again. Time passes only when everybody
//! waits for it.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use carapace_core::ports::Clock;
use jiff::{SignedDuration, Timestamp};

/// The time of a world; a clone shows the same time.
#[derive(Clone)]
pub struct Time(Rc<RefCell<State>>);

struct State {
    now: Timestamp,
    seed: u64,
    /// When those who sleep want to wake.
    sleepers: BTreeSet<Timestamp>,
}

impl Time {
    /// A time that begins at 2026-11-24T10:00:00Z. The seed decides how calls interleave; it must not
    /// be zero.
    pub fn seeded(seed: u64) -> Self {
        assert_ne!(seed, 0, "of zero the generator makes nothing but zeros");
        Self(Rc::new(RefCell::new(State {
            now: "2026-11-24T10:00:00Z".parse().unwrap(),
            seed,
            sleepers: BTreeSet::new(),
        })))
    }

    /// Lets seconds pass in which nobody does anything.
    pub fn pass(&self, seconds: i64) {
        self.0.borrow_mut().now += SignedDuration::from_secs(seconds);
    }

    /// Runs a future to its end. Whenever nobody in it can go on, time moves to the next moment that
    /// somebody sleeps for.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
                return result;
            }
            if woken.0.swap(false, Ordering::Relaxed) {
                continue;
            }
            let mut state = self.0.borrow_mut();
            let next = state.sleepers.pop_first();
            let next = next.expect("somebody waits for what never comes");
            state.now = state.now.max(next);
        }
    }

    /// Lets others run.
    pub async fn others(&self) {
        let turns = {
            let state = &mut *self.0.borrow_mut();
            // An xorshift generator: any order will do, as long as seeds differ.
            state.seed ^= state.seed << 13;
            state.seed ^= state.seed >> 7;
            state.seed ^= state.seed << 17;
            state.seed % 4
        };
        for _ in 0..turns {
            Turn(false).await;
        }
    }

    /// Lets others run, then does something, then lets others run before its result is seen.
    pub async fn amid_others<T>(&self, effect: impl FnOnce() -> T) -> T {
        self.others().await;
        let result = effect();
        self.others().await;
        result
    }

    /// Sleeps until then; not at all if that is past.
    pub async fn until(&self, until: Timestamp) {
        let time = self.clone();
        Sleep { time, until }.await;
    }
}

impl Clock for Time {
    fn now(&self) -> Timestamp {
        self.0.borrow().now
    }

    async fn sleep(&self, time: Duration) {
        let until = self.now() + SignedDuration::try_from(time).unwrap();
        self.until(until).await;
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Ready when its time has come.
struct Sleep {
    time: Time,
    until: Timestamp,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        let mut state = self.time.0.borrow_mut();
        if state.now >= self.until {
            return Poll::Ready(());
        }
        state.sleepers.insert(self.until);
        Poll::Pending
    }
}

/// Ready at the second look.
struct Turn(bool);

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
