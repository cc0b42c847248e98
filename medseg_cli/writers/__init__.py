"""Results out: masks, reports and pictures, each appearing whole or not at all."""
