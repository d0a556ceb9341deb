// SPDX-License-Identifier: Apache-2.0

package show

import (
	"replypath/cmd/replypath/cli"
	"replypath/loader/doctor"
)

// examined says what doctor looks at: by the configuration in force, unless a file is named.
func examined(pinDir string, file *cli.ConfigFile) (doctor.Options, error) {
	options := doctor.Options{PinDir: pinDir}
	if !file.Named() {
		return options, nil
	}
	var err error
	options.Config, _, err = file.Load()
	options.ConfigPath = file.Path
	return options, err
}
