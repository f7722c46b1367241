//! Lists in several messages. CRI `Stream*`: the same items as the unary twin's, at least one to a
//! message; the stream ends after the last, at once when there is none.

use std::iter::Peekable;
use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use prost::Message;
use tonic::Status;

/// A message is full once its items take this much. Far below what any client accepts, and few
/// enough messages for a full node.
const FULL: usize = 1 << 20;

/// Items measured together, on one blocking thread.
pub(super) const AT_ONCE: usize = 64;

/// What a streamed RPC answers.
pub(super) type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// `items` in messages that `message` makes of a few.
pub(super) fn messages<T, M>(
    items: impl Iterator<Item = T> + Send + 'static,
    message: fn(Vec<T>) -> M,
) -> Messages<M>
where
    T: Message + 'static,
    M: Send + 'static,
{
    let batches = Batches { items: items.peekable() };
    Box::pin(futures_util::stream::iter(batches.map(move |items| Ok(message(items)))))
}

/// As [`messages`], of items that come in portions.
pub(super) fn portions<T, M>(
    portions: impl Stream<Item = Vec<T>> + Send + 'static,
    message: fn(Vec<T>) -> M,
) -> Messages<M>
where
    T: Message + 'static,
    M: Send + 'static,
{
    Box::pin(portions.flat_map(move |portion| messages(portion.into_iter(), message)))
}

struct Batches<I: Iterator> {
    items: Peekable<I>,
}

impl<I: Iterator<Item: Message>> Iterator for Batches<I> {
    type Item = Vec<I::Item>;

    fn next(&mut self) -> Option<Self::Item> {
        self.items.peek()?;
        let mut batch = Vec::new();
        let mut bytes = 0;
        while bytes < FULL
            && let Some(item) = self.items.next()
        {
            bytes += item.encoded_len();
            batch.push(item);
        }
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri_api::v1;

    fn containers(count: u32, label_bytes: usize) -> Vec<v1::Container> {
        let labels = [("l".to_owned(), "x".repeat(label_bytes))];
        let one = |id: u32| v1::Container {
            id: id.to_string(),
            labels: labels.clone().into(),
            ..Default::default()
        };
        (0..count).map(one).collect()
    }

    fn sent(items: Vec<v1::Container>) -> Vec<v1::StreamContainersResponse> {
        let message = |containers| v1::StreamContainersResponse { containers };
        let stream = messages(items.into_iter(), message);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(stream.map(Result::unwrap).collect())
    }

    #[test]
    fn nothing_is_no_message() {
        assert_eq!(sent(Vec::new()), []);
    }

    #[test]
    fn every_item_comes_once_and_in_order() {
        let all = containers(5000, 1000);
        let messages = sent(all.clone());
        assert!(messages.len() > 1);
        for message in &messages {
            assert!(!message.containers.is_empty());
            assert!(message.encoded_len() < 2 * FULL, "{}", message.encoded_len());
        }
        let together: Vec<_> = messages.into_iter().flat_map(|m| m.containers).collect();
        assert_eq!(together, all);
    }

    #[test]
    fn an_item_that_is_too_large_goes_alone() {
        let messages = sent(containers(3, FULL + 1));
        assert_eq!(messages.len(), 3);
    }
}
