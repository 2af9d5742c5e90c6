//! Uploads in numbers, sent the way phones send them.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use milepost_shared::location::Upload;
use milepost_tests::{Answer, Client, Post, World};

/// Longest time one upload may take to its final answer, with everything that is done to the servers meanwhile.
const FINAL: Duration = Duration::from_secs(120);

/// Uploads with a key each.
pub struct Load {
    pub uploads: Vec<Upload>,
    pub keys: Vec<String>,
    pub posts: Vec<Post>,
}

impl Load {
    pub fn new(world: &World, count: usize) -> Self {
        let uploads: Vec<Upload> = (0..count).map(|index| world.planted.upload(1 + index % 3)).collect();
        let keys: Vec<String> = uploads.iter().map(|_| world.planted.key()).collect();
        let with_key = |(upload, key): (&Upload, &String)| Post::batch(upload).key(key).wait(1);
        let posts = uploads.iter().zip(&keys).map(with_key).collect();
        Self { uploads, keys, posts }
    }

    /// Sends each until its answer is final, `at_once` of them at a time, the clients in turn. The answers are 200.
    pub async fn post_until_final(&self, clients: &[Client], at_once: usize) -> anyhow::Result<Vec<Answer>> {
        let posting = self.posts.iter().enumerate().map(|(index, post)| async move {
            let answer = clients[index % clients.len()].post_until_final(post, FINAL).await?;
            anyhow::ensure!(answer.status == 200, "an upload ended with {:?}", answer.status_and_body());
            Ok(answer)
        });
        stream::iter(posting).buffered(at_once).try_collect().await
    }

    /// Sends each once more: the answers are the same, and replays.
    pub async fn replay(&self, client: &Client, first: &[Answer]) -> anyhow::Result<()> {
        for (post, first) in self.posts.iter().zip(first) {
            let answer = client.post_until_final(post, FINAL).await?;
            anyhow::ensure!(
                answer.status_and_body() == first.status_and_body(),
                "{:?} and then {:?}",
                first.status_and_body(),
                answer.status_and_body()
            );
            anyhow::ensure!(answer.replayed(), "an upload was accepted a second time");
        }
        Ok(())
    }

    pub fn expected(&self) -> Vec<&Upload> {
        self.uploads.iter().collect()
    }
}
