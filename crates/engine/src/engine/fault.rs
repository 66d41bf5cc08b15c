//! Errors of the clients, given the words of [`EngineError`].

use bollard::errors::Error as Client;

use crate::core::fault::{Fault, classify, classify_words};
use crate::error::{EngineError, Object, Operation};

pub(crate) fn from_bollard(operation: Operation, object: Object, error: Client) -> EngineError {
    match error {
        Client::DockerResponseServerError { status_code, message } => {
            refused(operation, object, Some(status_code), &message)
        }
        Client::DockerStreamError { error } => refused(operation, object, None, &error),
        error @ (Client::HyperResponseError { .. }
        | Client::HyperLegacyError { .. }
        | Client::IOError { .. }
        | Client::SocketNotFoundError(_)) => {
            EngineError::Unreachable { operation, object, source: Box::new(error) }
        }
        other => {
            EngineError::Unknown { operation, object, status: None, detail: other.to_string() }
        }
    }
}

/// A refusal in the engine's words; without a status it came in the middle of a stream.
pub(crate) fn refused(
    operation: Operation,
    object: Object,
    status: Option<u16>,
    message: &str,
) -> EngineError {
    let fault = match status {
        Some(status) => classify(status, message),
        None => classify_words(message),
    };
    let detail = message.trim().to_owned();
    match fault {
        Fault::Absent => EngineError::Absent { operation, object, detail },
        Fault::Conflict => EngineError::Conflict { operation, object, detail },
        Fault::Busy => EngineError::Busy { operation, object, detail },
        Fault::Invalid => EngineError::Invalid { operation, object, detail },
        Fault::Denied => EngineError::Denied { operation, object, detail },
        Fault::Unsupported => EngineError::Unsupported { operation, object, detail },
        Fault::Unknown => EngineError::Unknown { operation, object, status, detail },
    }
}
