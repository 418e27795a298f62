//! What goes wrong is told, and leaves nothing behind.
