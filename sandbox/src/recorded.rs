//! A stored tree as tier single shows it: everything root's, and the owners recorded beside the files
//! ([`crate::owners`]). All views are made of the result, and so all show the records.

use crate::{
    acl::{self, Acl},
    error::Result,
    owners::{Links, Owner, RECORD},
    view::{Kind, Listing, Metadata, ROOT, changed},
};

/// The tree with records; beside it the owners of what can carry none, by path.
pub(crate) fn recorded(tree: &Listing) -> Result<(Listing, Links)> {
    Ok((changed(tree, &record)?, links_with_owners(tree)))
}

fn record(kind: Kind, mut metadata: Metadata) -> Metadata {
    let owner = Owner { uid: metadata.uid, gid: metadata.gid };
    (metadata.uid, metadata.gid) = (0, 0);
    if !matches!(kind, Kind::File | Kind::Folder) {
        return metadata;
    }
    to_records(owner, &mut metadata.xattrs);
    metadata
}

/// The attributes of a file or folder with records in the place of what the kernel does not take.
pub(crate) fn to_records(owner: Owner, xattrs: &mut Vec<(Vec<u8>, Vec<u8>)>) {
    for (name, value) in xattrs.iter_mut() {
        let names_others = |acl: &Acl| acl.named().any(|id| id != 0);
        if let Some(record) = acl::record_of(name)
            && Acl::decode(value).as_ref().is_some_and(names_others)
        {
            *name = record.to_bytes().to_vec();
        }
    }
    if owner != Owner::ROOT {
        xattrs.push((RECORD.to_bytes().to_vec(), owner.encode()));
    }
    xattrs.sort();
}

fn links_with_owners(tree: &Listing) -> Links {
    let mut result = Vec::new();
    let mut pending = vec![(ROOT, Vec::new())];
    while let Some((folder, path)) = pending.pop() {
        for entry in tree.entries(folder).into_iter().flatten().filter_map(|number| tree.entry(number)) {
            let Some(node) = tree.node(entry.inode) else { continue };
            let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
            let path = [path.as_slice(), slash, entry.name].concat();
            let owner = Owner { uid: node.uid, gid: node.gid };
            match node.kind {
                Kind::Folder => pending.push((entry.inode, path)),
                Kind::File => {}
                _ if owner == Owner::ROOT => {}
                _ => result.push((path, owner)),
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::ListingBuilder;

    #[test]
    fn owners_become_records() {
        let of = |uid, gid| Metadata { uid, gid, mode: 0o755, ..Metadata::default() };
        let mut builder = ListingBuilder::new(&of(0, 0)).expect("a tree");
        let folder = builder.folder(ROOT, b"var", &of(0, 8)).expect("a folder");
        builder.file(folder, b"file", &of(33, 33), 1, b"c").expect("a file");
        builder.file(folder, b"plain", &of(0, 0), 1, b"d").expect("a file");
        builder.symlink(folder, b"link", &of(5, 6), b"file").expect("a link");
        let (listing, links) = recorded(&builder.finish().expect("a listing")).expect("another");
        assert_eq!(links, [(b"var/link".to_vec(), Owner { uid: 5, gid: 6 })]);
        let entry = |folder, name: &[u8]| {
            let number = listing.find(folder, name).expect("it is there");
            listing.entry(number).expect("an entry").inode
        };
        let record = |inode| {
            let node = listing.node(inode).expect("a node");
            assert_eq!((node.uid, node.gid), (0, 0));
            let mut found = None;
            listing.xattrs(inode, &mut |name, value| {
                found = (name == RECORD.to_bytes()).then(|| value.to_vec()).or(found.take());
                true
            });
            found.and_then(|value| Owner::decode(&value))
        };
        let var = entry(ROOT, b"var");
        assert_eq!(record(var), Some(Owner { uid: 0, gid: 8 }));
        assert_eq!(record(entry(var, b"file")), Some(Owner { uid: 33, gid: 33 }));
        assert_eq!(record(entry(var, b"plain")), None);
        assert_eq!(record(entry(var, b"link")), None);
    }
}
