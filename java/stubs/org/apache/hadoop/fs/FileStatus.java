// SPDX-License-Identifier: Apache-2.0
package org.apache.hadoop.fs;

import org.apache.hadoop.fs.permission.FsPermission;

public class FileStatus {
    public FileStatus(
            long length,
            boolean isdir,
            int blockReplication,
            long blocksize,
            long modificationTime,
            long accessTime,
            FsPermission permission,
            String owner,
            String group,
            Path path) {}

    public native boolean isDirectory();
}
