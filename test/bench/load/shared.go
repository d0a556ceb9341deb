// SPDX-License-Identifier: Apache-2.0

package load

// Shared is what is made once for all contenders and rounds.
type Shared struct {
	database *database
}

// Close removes it.
func (s *Shared) Close() error {
	if s.database == nil {
		return nil
	}
	return s.database.remove()
}
