//! A cloud that a test plays: real homes offer it their services, and it believes what they say of the state.
