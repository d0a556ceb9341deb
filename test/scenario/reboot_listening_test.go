package scenario

import "testing"

// TestRebootListening is TestReboot with a service that listens again.
func TestRebootListening(t *testing.T) { testReboot(t, true) }
