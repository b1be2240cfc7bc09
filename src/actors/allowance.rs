//! How many frames a socket may still send.
use tokio::time::Instant;

/// A bucket that fills by so many a second and holds a burst.
#[derive(Debug)]
pub(super) struct Allowance {
    per_second: f64,
    burst: f64,
    left: f64,
    at: Instant,
}

impl Allowance {
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        let burst = f64::from(burst);
        Self { per_second: f64::from(per_second), burst, left: burst, at: Instant::now() }
    }

    /// Takes one, if one is there.
    pub(super) fn take(&mut self) -> bool {
        let now = Instant::now();
        let gained = now.duration_since(self.at).as_secs_f64() * self.per_second;
        self.at = now;
        self.left = (self.left + gained).min(self.burst);
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_taken_at_once_and_the_rest_comes_with_time() {
        let mut allowance = Allowance::new(2, 3);
        let taken = |allowance: &mut Allowance| (0..10).filter(|_| allowance.take()).count();
        assert_eq!(taken(&mut allowance), 3);
        tokio::time::advance(Duration::from_millis(1_000)).await;
        assert_eq!(taken(&mut allowance), 2);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(taken(&mut allowance), 3, "it holds no more than a burst");
    }
}
