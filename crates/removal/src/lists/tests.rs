//! Lists in a store that others change, too, and in which somebody died half way.

use object_store::ObjectStore;
use object_store::memory::InMemory;
use prometheus::Registry;
use skald_storage::table::CatalogConfig;

use super::*;
use crate::requests::DeleteRequest;

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

fn lists(store: &Arc<InMemory>) -> DeleteLists {
    let store: Arc<dyn ObjectStore> = store.clone();
    DeleteLists::new(Arc::new(
        Catalog::new(&CatalogConfig::default(), store, "tables", &Registry::new()).unwrap(),
    ))
}

fn request(id: &str) -> DeleteRequest {
    let query = r#"{app="a"}"#.into();
    DeleteRequest { id: id.into(), query, start: 0, end: 9, created: 5, generation: 0, processed: None }
}

async fn add(lists: &DeleteLists, id: &str) -> Result<()> {
    lists.update(&tenant(), |loaded, _| Ok((loaded.list.with(request(id), 5)?, ()))).await
}

async fn ids(lists: &DeleteLists) -> Vec<String> {
    let snapshot = lists.catalog().snapshot(&tenant()).await.unwrap();
    let loaded = lists.at(&tenant(), &snapshot).await.unwrap().unwrap_or_default();
    loaded.list.requests.iter().map(|r| r.id.clone()).collect()
}

#[tokio::test]
async fn others_see_a_request_with_their_next_snapshot() {
    let store = Arc::new(InMemory::new());
    let (one, other) = (lists(&store), lists(&store));
    assert_eq!(ids(&other).await, [] as [String; 0]);
    add(&one, "a").await.unwrap();
    add(&other, "b").await.unwrap();
    assert_eq!(ids(&one).await, ["a", "b"]);
    assert_eq!(ids(&other).await, ["a", "b"]);
    let snapshot = one.catalog().snapshot(&tenant()).await.unwrap();
    assert_eq!((snapshot.deletes(), snapshot.version, snapshot.blocks.len()), (2, 1, 0));
}

#[tokio::test]
async fn many_at_once_lose_nothing() {
    let store = Arc::new(InMemory::new());
    let all: Vec<_> = (0..4).map(|_| Arc::new(lists(&store))).collect();
    let tasks = (0..12).map(|i| {
        let lists = all[i % 4].clone();
        tokio::spawn(async move { add(&lists, &format!("{i:02}")).await })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap().unwrap();
    }
    let mut found = ids(&all[0]).await;
    found.sort();
    assert_eq!(found, (0..12).map(|i| format!("{i:02}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_list_that_the_table_was_not_told_of_is_helped_along() {
    let store = Arc::new(InMemory::new());
    let lists = lists(&store);
    add(&lists, "a").await.unwrap();
    // Somebody died after this.
    let next = DeleteList::default().with(request("a"), 5).unwrap().unwrap();
    let next = next.with(request("dead"), 5).unwrap().unwrap();
    let path = lists.location(&tenant(), next.generation);
    store.put(&path, serde_json::to_vec(&next).unwrap().into()).await.unwrap();
    assert_eq!(ids(&lists).await, ["a"], "it does not count yet");
    add(&lists, "b").await.unwrap();
    assert_eq!(ids(&lists).await, ["a", "dead", "b"]);
}

#[tokio::test]
async fn a_repeated_change_whose_answer_was_lost_counts_once() {
    let store = Arc::new(InMemory::new());
    let lists = lists(&store);
    let next = DeleteList::default().with(request("a"), 5).unwrap().unwrap();
    let path = lists.location(&tenant(), 1);
    store.put(&path, serde_json::to_vec(&next).unwrap().into()).await.unwrap();
    add(&lists, "a").await.unwrap();
    assert_eq!(ids(&lists).await, ["a"]);
}

#[tokio::test]
async fn old_lists_go() {
    let store = Arc::new(InMemory::new());
    let lists = lists(&store);
    for i in 0..KEPT + 3 {
        add(&lists, &i.to_string()).await.unwrap();
    }
    assert!(store.get(&lists.location(&tenant(), 3)).await.is_err());
    assert!(store.get(&lists.location(&tenant(), 4)).await.is_ok());
}

#[tokio::test]
async fn a_list_that_cannot_be_read_is_named() {
    let store = Arc::new(InMemory::new());
    let lists = lists(&store);
    lists.catalog().commit_deletes(&tenant(), 3).await.unwrap();
    let snapshot = lists.catalog().snapshot(&tenant()).await.unwrap();
    let error = lists.at(&tenant(), &snapshot).await.unwrap_err();
    assert!(error.message.contains("tenant t") && error.message.contains("0000000003.json"), "{error}");
    store.put(&lists.location(&tenant(), 3), "{".into()).await.unwrap();
    let error = lists.at(&tenant(), &snapshot).await.unwrap_err();
    assert_eq!(error.kind, skald_model::Kind::Internal);
}
