mod model;
mod rig;
mod scenarios;
