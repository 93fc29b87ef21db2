// SPDX-License-Identifier: Apache-2.0
package org.apache.hadoop.fs.permission;

public class FsPermission {
    public native FsAction getUserAction();

    public native FsAction getGroupAction();

    public native FsAction getOtherAction();

    public static native FsPermission valueOf(String unixSymbolicPermission);
}
