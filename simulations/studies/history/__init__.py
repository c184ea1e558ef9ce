"""What memory and training are worth to a person, by how much history a device holds."""
