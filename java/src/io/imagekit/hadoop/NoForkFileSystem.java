// SPDX-License-Identifier: Apache-2.0
package io.imagekit.hadoop;

import org.apache.hadoop.fs.LocalFileSystem;

/**
 * Hadoop's local file system, with checksum files, that never starts a program: {@code
 * fs.file.impl}.
 */
public class NoForkFileSystem extends LocalFileSystem {
    /** Called by Hadoop, which initializes it after. */
    public NoForkFileSystem() {
        super(new NoForkRawFileSystem());
    }
}
