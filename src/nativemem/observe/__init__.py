"""Where memory goes, whose it is, and when: profiles of the whole process, and what reads them."""
