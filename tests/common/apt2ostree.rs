//! What apt2ostree would have made of debs, by its own commands.

use std::{collections::BTreeMap, fs, path::Path};

use crate::common::fixture::{Fixture, ostree};

/// Its rules `ostree` and `download_deb`, in the folder `theirs`, of the debs in `debs`:
/// refs with `+` and `~` as `_`, and the same options. What its `make_dpkg_info` adds is not looked at.
const UNPACK: &str = r#"
set -e
repo=theirs
[ -e $repo/config ] || ostree init --repo=$repo --mode=bare-user
for deb in debs/*.deb; do
    sha256sum=$(sha256sum "$deb" | cut -f1 -d ' ')
    name=$(echo "$sha256sum" | sed 's,^\(..\)\(..\)\(.*\),\1/\2/\3,')_$(basename "$deb")
    ref_base=deb/pool/$(echo "$name" | tr '+~' '__')
    mkdir tmp
    (cd tmp && dpkg-deb --ctrl-tarfile "../$deb" >control.tar && dpkg-deb --fsys-tarfile "../$deb" >data.tar)
    for part in data control; do
        ostree --repo=$repo commit -b "$ref_base/$part" --tree=tar=tmp/$part.tar \
            --no-bindings --orphan --timestamp=0 -s "$name $part" >/dev/null
    done
    mkdir -p meta/var/lib/dpkg
    (tar -xOf tmp/control.tar ./control; echo Status: install ok unpacked; echo) >>meta/var/lib/dpkg/status
    rm -r tmp
done
"#;

/// Its rules `deb_combine_meta` and `ostree_combine`: an image of all of them.
const COMBINE: &str = r#"
set -e
repo=theirs
ostree --repo=$repo commit -b deb/images/Packages.lock/status --tree=dir=meta --no-bindings --orphan \
    --timestamp=0 --owner-uid=0 --owner-gid=0 --no-xattrs >/dev/null
echo $(cd $repo/refs/heads && find deb/pool -name data | sort) | sed 's,deb/pool,--tree=ref=&,g' |
    xargs ostree --repo=$repo commit -b deb/images/Packages.lock/unpacked \
        --tree=ref=deb/images/Packages.lock/status --no-bindings --orphan --timestamp=0
"#;

/// Unpacks the debs in the work folder's `debs` into the repository `theirs` there.
pub(crate) fn unpack(fixture: &Fixture) {
    fixture.run("sh", &["-c", UNPACK]).ok();
}

/// Makes the unpacked image `Packages.lock` there.
pub(crate) fn combine(fixture: &Fixture) {
    fixture.run("sh", &["-c", COMBINE]).ok();
}

/// The commits of packages in a repository, by ref.
pub(crate) fn pool(repository: &Path) -> BTreeMap<String, String> {
    let list = ["refs", "--list", "--repo", repository.to_str().expect("UTF-8"), "deb/pool"];
    let refs = ostree(&list).ok().stdout;
    let commit = |name: &str| fs::read_to_string(repository.join("refs/heads").join(name)).expect("a ref");
    refs.lines().map(|name| (name.to_owned(), commit(name))).collect()
}
