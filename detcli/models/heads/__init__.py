"""What two or more detectors' heads share."""
