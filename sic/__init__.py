"""sic: scalable image coding for humans and machines, the paper's system and its study."""
