//! The tasks of a reactor: futures in places that are used again.

use std::collections::VecDeque;
use std::pin::Pin;

use crate::waker::{GENERATIONS, TaskId};

pub(crate) type Task = Pin<Box<dyn Future<Output = ()>>>;

#[derive(Default)]
struct Place {
    generation: u32,
    is_ready: bool,
    /// None while it is polled, and in a place that is free.
    task: Option<Task>,
}

/// All tasks, and those that are to be polled.
pub(crate) struct Tasks {
    reactor: u8,
    places: Vec<Place>,
    free: Vec<u32>,
    ready: VecDeque<TaskId>,
}

impl Tasks {
    pub fn new(reactor: u8) -> Self {
        Tasks { reactor, places: Vec::new(), free: Vec::new(), ready: VecDeque::new() }
    }

    /// Adds a task, to be polled in the next turn.
    pub fn add(&mut self, task: Task) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            (self.places.len() - 1) as u32
        });
        if let Some(its) = self.places.get_mut(place as usize) {
            *its = Place { generation: its.generation, is_ready: true, task: Some(task) };
            self.ready.push_back(TaskId::new(self.reactor, its.generation, place));
        }
    }

    fn place(&mut self, id: TaskId) -> Option<&mut Place> {
        self.places.get_mut(id.place()).filter(|place| place.generation == id.generation())
    }

    /// Has a task polled in the next turn, once, however often it is asked for.
    pub fn schedule(&mut self, id: TaskId) {
        if let Some(place) = self.place(id)
            && !std::mem::replace(&mut place.is_ready, true)
        {
            self.ready.push_back(id);
        }
    }

    /// How many are to be polled.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// The next one that is to be polled, taken out of its place.
    pub fn next(&mut self) -> Option<(TaskId, Task)> {
        loop {
            let id = self.ready.pop_front()?;
            if let Some(place) = self.place(id) {
                place.is_ready = false;
                if let Some(task) = place.task.take() {
                    return Some((id, task));
                }
            }
        }
    }

    /// Puts a task back that is not done.
    pub fn keep(&mut self, id: TaskId, task: Task) {
        if let Some(place) = self.place(id) {
            place.task = Some(task);
        }
    }

    /// Frees the place of a task that is done.
    pub fn end(&mut self, id: TaskId) {
        if let Some(place) = self.place(id) {
            *place = Place { generation: (place.generation + 1) & GENERATIONS, is_ready: false, task: None };
            self.free.push(id.place() as u32);
        }
    }
}
