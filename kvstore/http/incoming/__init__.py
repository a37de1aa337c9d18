"""What a request says, taken apart strictly: nothing is guessed and nothing ignored."""
