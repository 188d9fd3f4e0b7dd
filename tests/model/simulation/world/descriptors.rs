//! Descriptors of the world. A clone is one more descriptor of the same socket or pipe, as another process gets it. The last one
//! that is dropped closes it.

use super::Shared;
use std::ops::Deref;
use std::rc::Rc;

/// A socket as the driver holds it; dropping it closes it in order.
#[derive(Clone, Debug)]
pub struct SimSocket(Rc<OpenSocket>);

#[derive(Debug)]
pub struct OpenSocket {
    pub id: usize,
    world: Shared,
}

impl SimSocket {
    pub fn new(id: usize, world: &Shared) -> SimSocket {
        SimSocket(Rc::new(OpenSocket { id, world: world.clone() }))
    }

    pub fn is_shared(&self) -> bool {
        Rc::strong_count(&self.0) > 1
    }
}

impl Deref for SimSocket {
    type Target = OpenSocket;

    fn deref(&self) -> &OpenSocket {
        &self.0
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.world.borrow_mut().close(self.id);
    }
}

/// A pipe as the engine holds it.
#[derive(Clone, Debug)]
pub struct SimPipe(Rc<OpenPipe>);

#[derive(Debug)]
pub struct OpenPipe {
    pub id: usize,
    world: Shared,
}

impl SimPipe {
    pub fn new(id: usize, world: &Shared) -> SimPipe {
        SimPipe(Rc::new(OpenPipe { id, world: world.clone() }))
    }
}

impl Deref for SimPipe {
    type Target = OpenPipe;

    fn deref(&self) -> &OpenPipe {
        &self.0
    }
}

impl Drop for OpenPipe {
    fn drop(&mut self) {
        self.world.borrow_mut().pipes[self.id] = None;
    }
}

/// The system of one driver of the world, by its number.
pub struct SimNet(pub Shared, pub usize);
