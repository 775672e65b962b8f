//! Locking where a panic of another thread leaves nothing half done.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks it, though a thread may have panicked that held it: what it was about is told by its own failure.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
