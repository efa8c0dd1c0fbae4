"""What one recurrent step is: one file each."""
