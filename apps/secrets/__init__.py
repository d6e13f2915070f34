"""What must stay hidden: sealed values and their stores."""
