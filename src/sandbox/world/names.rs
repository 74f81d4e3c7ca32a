//! Made-up names for the many. None is meant to be anyone's.

const FIRST: [&str; 56] = [
    "Arlo", "Benna", "Cato", "Delia", "Edrik", "Fenna", "Galen", "Hesper", "Ilka", "Joren", "Kestra", "Lorin", "Maren",
    "Nevin", "Orla", "Perrin", "Quilla", "Rafe", "Sabra", "Tamsin", "Ulric", "Vesna", "Wendel", "Xanthe", "Yorick",
    "Zelda", "Anouk", "Bram", "Corin", "Dagny", "Eamon", "Floris", "Greta", "Halvar", "Isolde", "Jonas", "Kaia",
    "Leopold", "Mirela", "Nils", "Odette", "Piet", "Romy", "Sander", "Thora", "Umberto", "Viola", "Willem", "Ysolt",
    "Zeno", "Alba", "Boris", "Clio", "Dorin", "Elke", "Farid",
];

const LAST: [&str; 56] = [
    "Anchorby",
    "Brinewell",
    "Calder",
    "Dunmore",
    "Eastquay",
    "Fairlead",
    "Gullane",
    "Hawser",
    "Inshaw",
    "Jettison",
    "Kelpman",
    "Lanyard",
    "Mooring",
    "Northsea",
    "Oarlock",
    "Pilotte",
    "Quayle",
    "Rigger",
    "Saltmarsh",
    "Tidewater",
    "Umberfold",
    "Vane",
    "Wharton",
    "Yardarm",
    "Zephyr",
    "Ashcombe",
    "Bollard",
    "Coxswain",
    "Drydock",
    "Ebbing",
    "Fathom",
    "Gangway",
    "Halyard",
    "Ironhull",
    "Jibsheet",
    "Keelson",
    "Leeward",
    "Mizzen",
    "Netter",
    "Outrigger",
    "Pontoon",
    "Quarterdeck",
    "Rowlock",
    "Spinnaker",
    "Trawler",
    "Undertow",
    "Voyager",
    "Windlass",
    "Yawl",
    "Zander",
    "Beacon",
    "Cutter",
    "Driftwood",
    "Estuary",
    "Foghorn",
    "Groyne",
];

/// How many first names there are; last names are as many.
pub const COUNT: u8 = 56;

/// # Panics
/// Never below [`COUNT`].
pub fn first(index: u8) -> &'static str {
    FIRST[usize::from(index)]
}

/// # Panics
/// Never below [`COUNT`].
pub fn last(index: u8) -> &'static str {
    LAST[usize::from(index)]
}
