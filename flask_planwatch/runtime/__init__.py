"""What all parts use: time, interruptions, bounded memory, pauses."""
