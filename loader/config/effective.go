// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"fmt"
)

// encodingVersion is that of the form in which Encode writes. A field that comes into Config does not
// change it: who reads takes the default for what is missing, and leaves out what it does not know.
const encodingVersion = 1

// mostEncoded bounds what Encode writes.
const mostEncoded = 64 << 10

// encoded is what Encode writes.
type encoded struct {
	Version int     `json:"version"`
	Config  *Config `json:"config"`
}

// Encode writes the configuration, with the flags that were applied to it, for another process to read.
// It returns nil where that would take too much room.
func (c *Config) Encode() []byte {
	text, err := json.Marshal(encoded{encodingVersion, c})
	if err != nil || len(text) > mostEncoded { // no value of a configuration is refused
		return nil
	}
	return text
}

// Decode reads what Encode has written, of this version or an earlier one.
func Decode(text []byte) (*Config, error) {
	read := encoded{Config: Default()}
	if err := json.Unmarshal(text, &read); err != nil {
		return nil, fmt.Errorf("read the configuration in force: %w", err)
	}
	if read.Version != encodingVersion || read.Config == nil {
		return nil, fmt.Errorf("read the configuration in force: version %d of its form is not known", read.Version)
	}
	return read.Config, nil
}
